"""Learns while the service serves: from the event log to counts, weights and published deltas."""
