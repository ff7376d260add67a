"""Wishes end to end: share of the served items that fit, through a real service and a worker."""
