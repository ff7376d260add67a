"""Number of concurrent writes by additive increase, multiplicative decrease (AIMD).

Pure: the caller measures and passes the results in.
"""

from dataclasses import dataclass, field

MAX_WINDOW = 8.0
_MIN_WINDOW = 0.125
_CROWDED = 0.9  # of maxmemory: slow down before it is full


@dataclass
class WriteRate:
    """Adapts the number of concurrent writes to the ping time of the store."""

    target_ms: float = 5.0  # longest ping that does not slow the service
    window: float = 1.0  # concurrent writes; below one, a pause before each write
    num_cuts: int = 0  # for the summary
    slowest_ms: float = 0.0  # slowest ping, for the summary
    _cut_at_s: float = field(default=-1.0, repr=False)

    @property
    def num_writes(self) -> int:
        return max(int(self.window), 1)

    @property
    def pause_s(self) -> float:
        """Seconds to wait before the next write; 0 unless the window is below one write."""
        return 0.0 if self.window >= 1 else self.target_ms / 1000 / self.window

    def record_ping(self, ping_ms: float, *, memory_share: float, now_s: float) -> None:
        """Adapt the window to a ping and to the used share of memory.

        At most one cut per 10 * target_ms, so that a cut can take effect.
        """
        self.slowest_ms = max(self.slowest_ms, ping_ms)
        if ping_ms <= self.target_ms and memory_share < _CROWDED:
            self.window = min(self.window + 1 / max(self.window, 1.0), MAX_WINDOW)
        elif now_s - self._cut_at_s > 10 * self.target_ms / 1000:
            self._cut(now_s)

    def record_failure(self, now_s: float) -> None:
        self._cut(now_s)

    def _cut(self, now_s: float) -> None:
        self._cut_at_s = now_s
        self.num_cuts += 1
        self.window = max(self.window / 2, _MIN_WINDOW)
