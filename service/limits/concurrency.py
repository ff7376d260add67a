"""How many requests may be worked on at once: found by watching what more of them cost.

After the gradient limiter of Netflix's concurrency-limits (Gradient2Limit, Apache-2.0; the idea, no
code): the latency of a moment against that of the longer term says whether requests queue, and the
limit follows. Ours counts only what queueing in this process causes. A store that is slow or times
out is no reason to refuse anybody, so its time is no part of a sample.

Two departures. Short latencies are all alike: below FLOOR_SHARE of the budget nothing is worth
shedding for. And the longer term never counts for more than CEILING_SHARE of it, so that no
overload lasts long enough to be taken for normal.

Pure: numbers in, decisions out, the clock an argument.
"""

import math
from collections.abc import Mapping
from enum import Enum

from service.sources import Criticality

FLOOR_SHARE = 0.1  # of the budget
CEILING_SHARE = 0.15
_RECOVERED = 0.25  # of the floor
_TOLERANCE = 1.5  # by which the moment may exceed the longer term
_RISING, _FALLING = 0.3, 0.7  # weight of the newest estimate: what is too much is soon undone
_MIN_GRADIENT = 0.25
_WINDOW_S = 0.05
_MIN_SAMPLES = 10  # a window
_LONG_WINDOWS = 200  # about ten seconds under load
_MIN_ALLOWANCE = 0.5  # requests that may queue
_MIN_LIMIT = 2.0  # in a flood
_CALM_LIMIT = 8.0  # at least, else: near its capacity a process has bursts to bridge
_FLOOD_SHARE = 0.5  # refusals for each request let in, from which on it is one
_MIN_REFUSED = 10.0
_FORGETTING = 0.98  # a beat: half is forgotten in a third of a second
_START = 32.0

# Of the limit: how many requests may be in work for one more of this kind to be let in, and how
# many in the process, while the loop is late, for one more to be answered at all.
_SHARE = {Criticality.SHEDDABLE: 0.75, Criticality.DEFAULT: 1.0, Criticality.CRITICAL: 1.25}
_ANSWERED = {Criticality.SHEDDABLE: 1.0, Criticality.DEFAULT: 1.5, Criticality.CRITICAL: 3.0}
_PATIENCE = {Criticality.SHEDDABLE: 0.2, Criticality.DEFAULT: 0.3, Criticality.CRITICAL: 0.6}
_POPULAR_PATIENCE = 0.5  # of the budget: it only has to be written
_POPULAR_LAG = 0.3  # a loop that is later refuses, which is cheaper still
_PUNCTUAL = dict.fromkeys(Criticality, 256)  # a burst this large would make the loop late


class Admission(Enum):
    FULL = "full"  # the whole ladder; `release` once it is answered
    POPULAR = "popular"  # an answer without store or model


class Limiter:
    """Used from the event loop only.

    budget_s: what an answer may take. highest: the limit never exceeds it.
    """

    def __init__(self, *, budget_s: float, highest: int) -> None:
        self.num_inside = 0
        self.num_let_in = 0  # ever
        self.is_flooded = False
        self._found = min(_START, float(highest))
        self._num_refused = 0  # ever
        self._lately_let_in = self._lately_refused = 0.0
        self._budget_s = budget_s
        self._highest = float(highest)
        self._lowest = min(_MIN_LIMIT, self._highest)
        self._calm = min(_CALM_LIMIT, self._highest)
        self._floor_s = FLOOR_SHARE * budget_s
        self._ceiling_s = CEILING_SHARE * budget_s
        self._long_s = self._floor_s
        self._window = _Window(began_at=-math.inf)

    @property
    def limit(self) -> float:
        """Requests that may be in work."""
        return self._found if self.is_flooded else max(self._found, self._calm)

    @property
    def saturation(self) -> float:
        """Requests in work as a share of the limit; 1 and above: others are shed."""
        return self.num_inside / self.limit

    def admit(self, criticality: Criticality) -> Admission:
        """FULL takes a place that `release` has to give back."""
        self._lately_let_in += 1
        if self.num_inside >= self.limit * _SHARE[criticality]:
            return Admission.POPULAR
        self.num_inside += 1
        self.num_let_in += 1
        self._window.peak = max(self._window.peak, self.num_inside)
        return Admission.FULL

    def beat(self, num_refused: int) -> None:
        """At every beat of the loop. num_refused: not let in, ever. Where these are many for each
        that is let in, it is a flood, and to be on time is all that counts."""
        self._lately_refused = _FORGETTING * self._lately_refused + num_refused - self._num_refused
        self._num_refused = num_refused
        self._lately_let_in *= _FORGETTING
        bound = max(_FLOOD_SHARE * self._lately_let_in, _MIN_REFUSED)
        self.is_flooded = self._lately_refused >= bound

    @property
    def punctual(self) -> Mapping[Criticality, int]:
        """From how many requests read and not answered yet on one more is better refused, even
        while the event loop is on time: below that a burst gets cheap answers and no refusals."""
        return _PUNCTUAL

    @property
    def tight(self) -> Mapping[Criticality, int]:
        """The same for a loop that is late."""
        return {kind: math.ceil(self.limit * share) for kind, share in _ANSWERED.items()}

    @property
    def patience_s(self) -> Mapping[Criticality, float]:
        """For how long a request may have waited for its turn, and still be worth beginning."""
        return {kind: share * self._budget_s for kind, share in _PATIENCE.items()}

    def popular_patience_s(self, lag_s: float) -> float:
        """For how long a request may have waited, and still get a `popular` answer instead of a
        refusal, where no more is to be had; 0 where the loop is too late for that."""
        return _POPULAR_PATIENCE * self._budget_s if lag_s < _POPULAR_LAG * self._budget_s else 0.0

    def is_late(self, lag_s: float, *, was_late: bool) -> bool:
        """Whether a loop that is late by so much is too late for many requests at once.

        It stays so until it is clearly on time again: a loop that sheds well is hardly late, and
        would let in another burst.
        """
        return lag_s >= (_RECOVERED * self._floor_s if was_late else self._floor_s)

    def release(self, sample_s: float | None, *, now: float) -> None:
        """Give a place back. sample_s: what queueing and work took; None: not to be learnt from."""
        self.num_inside -= 1
        if sample_s is None:
            return
        self._window.num_samples += 1
        self._window.sum_s += sample_s
        if now - self._window.began_at >= _WINDOW_S and self._window.num_samples >= _MIN_SAMPLES:
            self._learn(self._window)
            self._window = _Window(began_at=now, peak=self.num_inside)

    def _learn(self, window: "_Window") -> None:
        short_s = max(window.sum_s / window.num_samples, self._floor_s)
        self._follow(short_s)
        gradient = min(max(_TOLERANCE * self._long_s / short_s, _MIN_GRADIENT), 1.0)
        if gradient == 1.0 and window.peak < self._found / 2:
            return  # nobody asks for more
        allowance = max(0.5 * math.sqrt(self._found), _MIN_ALLOWANCE)
        estimate = self._found * gradient + allowance
        weight = _RISING if estimate > self._found else _FALLING
        smoothed = (1 - weight) * self._found + weight * estimate
        self._found = min(max(smoothed, self._lowest), self._highest)

    def _follow(self, short_s: float) -> None:
        longer_s = self._long_s + (short_s - self._long_s) / _LONG_WINDOWS
        self._long_s = min(max(longer_s, self._floor_s), self._ceiling_s)


class _Window:
    """Samples of a moment, and the most requests that were in work at once."""

    __slots__ = ("began_at", "num_samples", "peak", "sum_s")

    def __init__(self, *, began_at: float, peak: int = 0) -> None:
        self.began_at = began_at
        self.peak = peak
        self.num_samples = 0
        self.sum_s = 0.0
