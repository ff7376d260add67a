"""Times from an event to the answers that know of it, with real services and a real learner.

`live_versions`, `slice_lines` and `event_delays` decide from records alone; `live_system` starts
the processes, `steady_load` and `fresh_watch` ask and look, `freshness` is the command.
"""
