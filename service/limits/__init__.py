"""Bounds of one process: how much work it takes on, and what becomes of requests above that.

connections         bytes, seconds and number of clients; carries out what the gate decides
flood_gate          pass a request on, hold it, or answer it with `popular` or 503
concurrency         how many requests may be in work at once, learnt from their latencies
loop_lag            how late the event loop is
replies             503 answers as bytes
overload_settings   every number of the above
"""
