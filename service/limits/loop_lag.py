"""Lateness of the event loop, which a saturated process adds to every wait.

A timer fires every few milliseconds and measures how late it is. Knows nothing of requests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from service.limits.overload_settings import OverloadSettings


class LoopLag:
    """Starts with `start`; `seconds` is 0 before and after."""

    def __init__(
        self, settings: OverloadSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steady_s = 0.0  # seconds late at each of the last beats, forgotten slowly
        self._settings = settings
        self._clock = clock
        self._latest_s = deque([0.0] * settings.steady_beats, maxlen=settings.steady_beats)
        self._due_at: float | None = None  # the next beat, on the clock
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """Lateness of the last beat, or of the next one if that is overdue by more."""
        if self._due_at is None:
            return 0.0
        return max(self._latest_s[-1], self._clock() - self._due_at)

    def start(self, on_beat: Callable[[], None]) -> None:
        """Measure on the running loop, and call `on_beat` after every measurement."""
        loop = asyncio.get_running_loop()

        def beat() -> None:
            self.observe()
            on_beat()
            self.expect()
            self._timer = loop.call_later(self._settings.beat_s, beat)

        self.expect()
        self._timer = loop.call_later(self._settings.beat_s, beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = self._timer = None

    def expect(self) -> None:
        """Expect the next beat in `beat_s` from now."""
        self._due_at = self._clock() + self._settings.beat_s

    def observe(self) -> None:
        """Measure how late the beat is that comes now."""
        assert self._due_at is not None
        self._latest_s.append(max(self._clock() - self._due_at, 0.0))
        self.steady_s = max(min(self._latest_s), self._settings.memory * self.steady_s)
