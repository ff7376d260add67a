"""Load on a service process: request generators, answer checks, latency, CPU, memory, sizing.

`arrivals`, `http_connection`, `open_loop`, `load_stream` generate load; `rate_sweep` and
`answer_checks` evaluate the answers; the other files are commands.
"""
