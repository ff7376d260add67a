"""A circuit breaker: a store that is out is not asked, until it is seen to be back.

    closed  --- FAILURES_TO_OPEN in a row, or half of what was asked within WINDOW_S --->  open
    open    --- SUCCESSES_TO_CLOSE probes in a row ------------------------------------->  closed

There is no half-open state on the request path: whoever polls the store anyway (the manifest watch)
goes on probing, more often while there is doubt, and no request is ever the guinea pig. Knows
nothing of Redis.
"""

import time
from collections import deque
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # in a row: an outage, whether errors come at once or as timeouts
SUCCESSES_TO_CLOSE = 3  # probes in a row: a store that answers now and then is not back
WINDOW_S = 1.0
_BUCKET_S = 0.1
_MIN_CALLS = 20  # within the window, before a share means anything
_MAX_SHARE = 0.5  # of them that fail


class Breaker:
    """Used from the event loop only. `on_doubt` is called when the store begins to fail."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_open = False
        self._clock = clock
        self._on_doubt = on_doubt
        self._num_failed = 0  # in a row
        self._num_probed = 0  # in a row, well
        self._buckets: deque[_Bucket] = deque(maxlen=round(WINDOW_S / _BUCKET_S))

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last thing heard of the store was a failure, or it is not asked."""
        return self.is_open or self._num_failed > 0

    def failed(self) -> None:
        """A call failed, a probe or not."""
        self._num_failed += 1
        self._num_probed = 0
        bucket = self._bucket()
        bucket.num_calls += 1
        bucket.num_failed += 1
        if self._num_failed == 1:
            self._on_doubt()
        if self._num_failed >= FAILURES_TO_OPEN or self._is_mostly_failing():
            self.is_open = True

    def succeeded(self) -> None:
        """A call succeeded; one that was sent before the breaker opened closes nothing."""
        self._bucket().num_calls += 1
        if not self.is_open:
            self._num_failed = 0

    def probed(self) -> None:
        """A probe succeeded."""
        self.succeeded()
        self._num_probed += 1
        if self.is_open and self._num_probed >= SUCCESSES_TO_CLOSE:
            self.is_open = False
            self._num_failed = 0
            self._buckets.clear()

    def _bucket(self) -> "_Bucket":
        at = int(self._clock() / _BUCKET_S)
        if not self._buckets or self._buckets[-1].at != at:
            self._buckets.append(_Bucket(at))
        return self._buckets[-1]

    def _is_mostly_failing(self) -> bool:
        oldest = int((self._clock() - WINDOW_S) / _BUCKET_S)
        recent = [bucket for bucket in self._buckets if bucket.at > oldest]
        num_calls = sum(bucket.num_calls for bucket in recent)
        num_failed = sum(bucket.num_failed for bucket in recent)
        return num_calls >= _MIN_CALLS and num_failed >= _MAX_SHARE * num_calls


class _Bucket:
    """What was asked within a tenth of a second."""

    __slots__ = ("at", "num_calls", "num_failed")

    def __init__(self, at: int) -> None:
        self.at = at
        self.num_calls = 0
        self.num_failed = 0
