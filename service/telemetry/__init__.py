"""Prometheus metrics, log lines, W3C trace contexts and OpenTelemetry spans."""
