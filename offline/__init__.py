"""The offline tier: histories in, one night of thinking, a live generation out.

    commands   the command line: python -m offline import, refresh, status, ...
    refresh    one night, stage by stage
    plan       the first stage: choose the users that are due, and the rows to carry over
    think      the second stage: shards of thoughts, on any number of processes
    check      the third stage: validation, comparison with the night before, gates, report
    live       the last stage: load, verify, activate; then rollback, gc, repair, erase, worker
    disk       the files of a night

A folder imports only from folders below it; settings and progress are shared. Every stage is a
command too, and can be run again: a night that was stopped goes on where it was.
"""
