"""A circuit breaker: after a few failures in a row, stop asking.

Knows nothing of Redis. It has no half-open state: whoever polls the store anyway (the manifest
watch) goes on asking, off the request path, and closes the breaker with its first success.
"""

FAILURES_TO_OPEN = 3


class Breaker:
    """Used from the event loop only."""

    def __init__(self) -> None:
        self._failures = 0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    def failed(self) -> None:
        self._failures += 1

    def succeeded(self) -> None:
        self._failures = 0
