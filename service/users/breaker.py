"""Circuit breaker: requests skip a failing store until probes succeed again.

    closed  --- FAILURES_TO_OPEN failures in a row, or half of the calls within WINDOW_S --->  open
    open    --- SUCCESSES_TO_CLOSE successful probes in a row --------------------------->  closed

There is no half-open state, so no request is used as a probe. The manifest watch polls the store
in any case; its polls are the probes, and they come more often while the store is in doubt. Knows
nothing of Redis.
"""

import time
from collections import deque
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # in a row, quick errors and timeouts alike: an outage
SUCCESSES_TO_CLOSE = 3  # probes in a row: a store that answers only sometimes is not back
WINDOW_S = 1.0
_BUCKET_S = 0.1
_MIN_CALLS = 20  # within the window; a share of fewer calls says nothing
_MAX_SHARE = 0.5  # failures / calls within the window; the breaker opens from here on


class Breaker:
    """State of the breaker; for use on the event loop only.

    `on_doubt` is called at the first failure after a success.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_open = False
        self._clock = clock
        self._on_doubt = on_doubt
        self._num_failed = 0  # failed calls in a row
        self._num_probed = 0  # successful probes in a row
        self._buckets: deque[_Bucket] = deque(maxlen=round(WINDOW_S / _BUCKET_S))

    @property
    def is_in_doubt(self) -> bool:
        """True after a failed call, and while the breaker is open."""
        return self.is_open or self._num_failed > 0

    def record_failure(self) -> None:
        """Count a failed call or a failed probe."""
        self._num_failed += 1
        self._num_probed = 0
        bucket = self._bucket()
        bucket.num_calls += 1
        bucket.num_failed += 1
        if self._num_failed == 1:
            self._on_doubt()
        if self._num_failed >= FAILURES_TO_OPEN or self._is_mostly_failing():
            self.is_open = True

    def record_success(self) -> None:
        """Count a successful call. It never closes the breaker: it may have been sent before."""
        self._bucket().num_calls += 1
        if not self.is_open:
            self._num_failed = 0

    def record_probe(self) -> None:
        """Count a successful probe, and close the breaker after enough of them."""
        self.record_success()
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
    """Counts of the calls within one interval of `_BUCKET_S`."""

    __slots__ = ("at", "num_calls", "num_failed")

    def __init__(self, at: int) -> None:
        self.at = at
        self.num_calls = 0
        self.num_failed = 0
