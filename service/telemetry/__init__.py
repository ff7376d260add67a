"""Metrics, logs and traces of the service.

`metrics` holds the Prometheus metrics, `logs` formats lines, `request_headers` reads the headers
that name and rank a request, and `otel` exports spans (extra `otel`).
"""
