"""Means to break things: a fault proxy, Redis servers to kill and restart, a CPU quota."""
