"""The concurrency limit: how many requests may use store and model at once.

The limit follows measured latencies, after the gradient limiter of Netflix's concurrency-limits
(Gradient2Limit, Apache-2.0; the idea, no code). Two departures:

    a fixed target   the limit falls once queueing and work take more than a share of the budget;
                     an overload that lasts can so never be taken for normal
    only our queue   the store's time is no part of a sample: a slow store rejects no request

Pure: numbers in, decisions out; the clock is an argument.
"""

import math
from dataclasses import dataclass
from enum import Enum

from service.limits.overload_settings import OverloadSettings
from service.sources import Criticality


class Admission(Enum):
    FULL = "full"  # the whole ladder; `release` gives the place back
    POPULAR = "popular"  # an answer without store or model


@dataclass(slots=True)
class _Window:
    """Samples of the last moment."""

    began_at: float = -math.inf
    peak: int = 0  # most requests in work at once
    num_samples: int = 0
    sum_s: float = 0.0


class ConcurrencyLimiter:
    """Used from the event loop only."""

    def __init__(self, settings: OverloadSettings, *, budget_s: float, highest: int) -> None:
        """Start at `first_limit`; the limit never exceeds `highest` requests."""
        self.num_inside = 0  # requests in work
        self.num_admitted = 0  # since the start
        self._settings = settings
        self._admitted = {kind: settings.admitted.of(kind) for kind in Criticality}
        self._highest = float(highest)
        self._target_s = settings.queueing_target * budget_s
        self.is_flooded = False  # the gate tells
        self._found = min(settings.first_limit, self._highest)
        self._calm = min(settings.calm_limit, self._highest)
        self._window = _Window()

    @property
    def limit(self) -> float:
        """Requests that may be in work: as measured, but at least `calm_limit` without a flood."""
        return self._found if self.is_flooded else max(self._found, self._calm)

    @property
    def saturation(self) -> float:
        """Requests in work as a share of the limit; from 1 on further ones are rejected."""
        return self.num_inside / self.limit

    def admit(self, criticality: Criticality) -> Admission:
        """Decide on one request; FULL takes a place that `release` has to give back."""
        if self.num_inside >= min(self.limit * self._admitted[criticality], self._highest):
            return Admission.POPULAR
        self.num_inside += 1
        self.num_admitted += 1
        self._window.peak = max(self._window.peak, self.num_inside)
        return Admission.FULL

    def release(self, sample_s: float | None, *, now: float) -> None:
        """Give a place back.

        Args:
            sample_s: seconds of queueing and work; None teaches nothing.
            now: seconds, monotonic.
        """
        self.num_inside -= 1
        if sample_s is None:
            return
        window, settings = self._window, self._settings
        window.num_samples += 1
        window.sum_s += sample_s
        is_long = now - window.began_at >= settings.window_s
        if is_long and window.num_samples >= settings.window_samples:
            self._learn(window)
            self._window = _Window(began_at=now, peak=self.num_inside)

    def _learn(self, window: _Window) -> None:
        mean_s = window.sum_s / window.num_samples
        gradient = self._target_s / mean_s if mean_s > self._target_s else 1.0
        if gradient == 1.0 and window.peak < self._found / 2:
            return  # nothing asks for a higher limit
        estimate = self._found * gradient + self._settings.headroom * math.sqrt(self._found)
        smoothed = (self._found + estimate) / 2
        self._found = min(max(smoothed, self._settings.least_limit), self._highest)
