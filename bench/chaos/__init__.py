"""Promises R1 to R10 under faults, measured on real processes; one file per promise.

`faults/` holds the means: a fault proxy, Redis servers, a CPU quota. `world` starts the processes,
`findings` compares the measurements with their bounds.
"""
