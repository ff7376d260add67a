"""How much may be under way at once: additive increase, multiplicative decrease (AIMD).

Pure: it is told what was seen and tells what is allowed.
"""

from dataclasses import dataclass, field

MAX_WINDOW = 8.0
_MIN_WINDOW = 0.125
_CROWDED = 0.9  # of maxmemory: slow down before it is full


@dataclass
class Pace:
    """window: writes under way; below one, a pause before each.

    target_ms: what a ping may take before the service would notice. num_cuts, slowest_ms: for the
    summary.
    """

    target_ms: float = 5.0
    window: float = 1.0
    num_cuts: int = 0
    slowest_ms: float = 0.0
    _cut_at_s: float = field(default=-1.0, repr=False)

    @property
    def num_writes(self) -> int:
        return max(int(self.window), 1)

    @property
    def pause_s(self) -> float:
        """Before the next write, once the window is below one write."""
        return 0.0 if self.window >= 1 else self.target_ms / 1000 / self.window

    def saw(self, ping_ms: float, *, memory_share: float, now_s: float) -> None:
        """A ping's time, and how full the store is. One cut per 10 targets: it has to take hold."""
        self.slowest_ms = max(self.slowest_ms, ping_ms)
        if ping_ms <= self.target_ms and memory_share < _CROWDED:
            self.window = min(self.window + 1 / max(self.window, 1.0), MAX_WINDOW)
        elif now_s - self._cut_at_s > 10 * self.target_ms / 1000:
            self._cut(now_s)

    def failed(self, now_s: float) -> None:
        self._cut(now_s)

    def _cut(self, now_s: float) -> None:
        self._cut_at_s = now_s
        self.num_cuts += 1
        self.window = max(self.window / 2, _MIN_WINDOW)
