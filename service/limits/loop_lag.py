"""By how much the event loop is late: what a saturated process adds to every wait.

A beat every few milliseconds looks how long after its time it comes. Knows nothing of requests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

_BEAT_S = 0.01
_WEIGHT = 0.5  # of the newest beat
_STEADY_BEATS = 4
_FORGETTING = 0.98  # a beat: lateness that lasted is forgotten by half in a third of a second


class LoopLag:
    """Starts with `start`, on the running loop; `seconds` is 0 before and after.

    steady_s: how late each of the last few beats was at least, or of the last two, if it grows:
    nothing, after a single stall, and what that has left to do. It is forgotten slowly, as a loop
    that sheds is on time now and then. on_beat: called at each.
    """

    def __init__(self, on_beat: Callable[[], None] = lambda: None) -> None:
        self.steady_s = 0.0
        self._on_beat = on_beat
        self._average_s = 0.0
        self._latest_s = deque([0.0] * _STEADY_BEATS, maxlen=_STEADY_BEATS)
        self._due_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """An average over the last few beats, or how late the next one is already."""
        if self._loop is None:
            return 0.0
        return max(self._average_s, time.monotonic() - self._due_at)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._expect()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def _expect(self) -> None:
        assert self._loop is not None
        self._due_at = time.monotonic() + _BEAT_S
        self._timer = self._loop.call_later(_BEAT_S, self._beat)

    def _beat(self) -> None:
        late_s = max(time.monotonic() - self._due_at, 0.0)
        self._average_s += _WEIGHT * (late_s - self._average_s)
        growing_s = before_s if late_s >= (before_s := self._latest_s[-1]) else 0.0
        self._latest_s.append(late_s)
        self.steady_s = max(min(self._latest_s), growing_s, _FORGETTING * self.steady_s)
        self._on_beat()
        self._expect()
