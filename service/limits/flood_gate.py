"""The gate in front of the application: pass a request on, hold it, or answer it at once.

    open     the loop is on time: all requests pass, until a large burst is in the process
    strict   the loop is late: a bound on requests in the process, by criticality; the gate stays
             strict while it answers many requests itself

`decide` is pure: it reads the state of the gate and changes nothing. `beat` renews that state at
every beat of the event loop; `count_popular` and `count_rejection` say what became of a decision.
The gate knows no sockets and no bytes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from service.limits.concurrency import ConcurrencyLimiter
from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import OverloadSettings
from service.sources import Criticality


class Arrival(NamedTuple):
    """Facts about a request that the gate decides on."""

    criticality: Criticality | None  # None: not read yet, or never rejected
    num_present: int = 0  # requests of this process that are read and not answered
    waited_s: float = 0.0  # seconds since the request arrived, unread or read
    quiet_until: float = -math.inf  # monotonic seconds; its connection rests until then


@dataclass(frozen=True)
class Pass:
    """Go on with the request."""


@dataclass(frozen=True)
class Hold:
    """Leave the request alone for a while, then ask the gate again."""

    until: float  # monotonic seconds


@dataclass(frozen=True)
class Reply:
    """Answer the request without the application."""

    criticality: Criticality  # of the request
    may_be_popular: bool  # `popular` if the request can have it; otherwise 503
    rest_s: float  # after a 503: seconds for which the connection is not read


PASS = Pass()


class FloodGate:
    """Decide on every request that may be too much. Used from the event loop only."""

    def __init__(
        self,
        settings: OverloadSettings,
        *,
        budget_s: float,
        limiter: ConcurrencyLimiter,
        lag: LoopLag,
    ) -> None:
        self.num_rejected = dict.fromkeys(Criticality, 0)  # answered with 503, since the start
        self.num_popular = 0  # answered with `popular` by the gate, since the start
        self.popular_left = settings.popular_saved  # answers that may be given now
        self.is_strict = False
        self.is_flooded = False  # strict, and many requests were answered by the gate recently
        self.num_open = settings.burst  # while fewer requests are present, all pass unseen
        self.settings = settings
        self.limiter = limiter
        self.lag = lag
        self._late_s = settings.late * budget_s
        self._patience_s = settings.patience * budget_s
        self._popular_patience_s = settings.popular_patience * budget_s
        self._reserved = {kind: settings.popular_reserved.of(kind) for kind in Criticality}
        self._bounds = dict.fromkeys(Criticality, float(settings.burst))
        self._reject, self._give_popular = (
            {kind: Reply(kind, may_be_popular, settings.rest_s) for kind in Criticality}
            for may_be_popular in (False, True)
        )
        self._lag_s = 0.0  # at the last beat
        self._num_admitted = self._num_turned_away = 0  # since the start, at the last beat
        self._recently_turned_away = self._recently_admitted = 0.0

    @property
    def num_turned_away(self) -> int:
        """Requests that the gate has answered, since the start."""
        return sum(self.num_rejected.values()) + self.num_popular

    def decide(self, request: Arrival, now: float) -> Pass | Hold | Reply:
        """Decide what becomes of a request; `now` in monotonic seconds."""
        if now < request.quiet_until:
            return Hold(request.quiet_until)
        if request.criticality is None or not self._is_too_much(request, request.criticality):
            return PASS
        if self._has_popular(request, request.criticality):
            return self._give_popular[request.criticality]
        return self._reject[request.criticality]

    def count_popular(self) -> None:
        self.num_popular += 1
        self.popular_left -= 1

    def count_rejection(self, criticality: Criticality) -> None:
        self.num_rejected[criticality] += 1

    def beat(self) -> None:
        """Renew the state that `decide` reads."""
        settings = self.settings
        self._lag_s = self.lag.seconds
        num_turned_away = self.num_turned_away - self._num_turned_away
        self._num_turned_away += num_turned_away
        self._recently_turned_away *= settings.memory
        self._recently_turned_away += num_turned_away
        num_admitted = self.limiter.num_admitted - self._num_admitted
        self._num_admitted += num_admitted
        self._recently_admitted *= settings.memory
        self._recently_admitted += num_admitted
        flood = max(settings.flood, settings.flood_share * self._recently_admitted)
        self.is_flooded = self.is_strict and self._recently_turned_away >= flood
        self.limiter.is_flooded = self.is_flooded
        self.is_strict = self.is_flooded or self.lag.steady_s >= self._late_s
        if self.is_strict:
            limit = self.limiter.limit
            self._bounds = {kind: limit * settings.admitted.of(kind) for kind in Criticality}
            self.num_open = 0
        else:
            self._bounds = dict.fromkeys(Criticality, float(settings.burst))
            self.num_open = settings.burst
        earned = settings.popular_per_admitted * num_admitted
        self.popular_left = min(self.popular_left + earned, settings.popular_saved)

    def _is_too_much(self, request: Arrival, criticality: Criticality) -> bool:
        if self.is_flooded and request.waited_s > self._patience_s:
            return True
        return request.num_present >= self._bounds[criticality]

    def _has_popular(self, request: Arrival, criticality: Criticality) -> bool:
        is_in_time = request.waited_s + self._lag_s < self._popular_patience_s
        return is_in_time and self.popular_left > self._reserved[criticality]
