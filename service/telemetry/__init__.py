"""Metrics, logs and traces of the service.

`metrics` holds the Prometheus metrics, `logs` formats lines, `trace_context` reads and writes W3C
trace headers, and `otel` exports spans (extra `otel`).
"""
