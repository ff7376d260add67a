"""Several processes that answer at one port: a supervisor, and the workers that it starts.

listeners       sockets of a port that one process has, or that several share
assignment      the place of one worker: number, core, sockets, settings
channel         questions and answers between the supervisor and one worker
crew            the other workers, as one worker reaches them
slot            one worker process, started again whenever it ends
supervisor      starts, watches, reloads and ends the workers
"""
