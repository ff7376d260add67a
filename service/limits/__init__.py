"""Bounds of one process: how much work it takes on, and how it answers what is too much.

connections    bytes, seconds and the number of clients; carries out what the gate decides
flood_gate     pass a request on, hold it, or answer it with `popular` or 503
unparsed       criticality and user id of a request that is not parsed yet
concurrency    how many requests may be in work at once, learnt from their latencies
loop_lag       how late the event loop is
"""
