"""Metrics, log lines, trace contexts and spans."""
