"""A simulated process behind the real flood gate: one core, one event loop, clients; no sockets.

The loop goes round as asyncio's does: it reads every request that has come, runs the requests read
in the round before, and fires the timer of `LoopLag`. Every step takes time of the one core, so
that a loop with much to do is late, and requests lie unread. Time passes in the simulation only.
"""

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from service.limits.concurrency import Admission, ConcurrencyLimiter
from service.limits.flood_gate import Arrival, FloodGate, Hold, Pass, Reply
from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import OverloadSettings
from service.sources import Criticality

BUDGET_S = 0.1
NEVER = float("inf")


@dataclass(frozen=True)
class Costs:
    """Seconds that one step takes; the defaults are those of a quarter of a core."""

    answer_s: float = 0.0036  # a whole answer, in work
    popular_s: float = 0.0024  # `popular` on the way through the application
    read_s: float = 0.00014  # to read a request and ask the gate
    reply_s: float = 0.00008  # to write an answer of the gate
    store_s: float = 0.001  # no CPU: the store's time

    @property
    def capacity(self) -> float:
        """Whole answers a second, at most."""
        return 1 / (self.answer_s + self.read_s)


@dataclass
class Client:
    """One connection."""

    criticality: Criticality = Criticality.DEFAULT
    can_be_popular: bool = True  # its request has no parameter but the number of items
    asks_again: bool = False  # at once after every answer; otherwise it asks once
    quiet_until: float = -NEVER


@dataclass(order=True)
class _Request:
    at: float  # when the process can read it
    number: int
    client: Client = field(compare=False)
    sent_at: float = field(compare=False)
    is_held: bool = field(default=False, compare=False)


@dataclass
class Seen:
    """Outcomes of the clients of one criticality."""

    counts: Counter[str] = field(default_factory=Counter)  # full, popular, rejected; X_in_time
    accepted_s: list[float] = field(default_factory=list)  # latencies of full and popular

    def share(self, outcome: str) -> float:
        num = self.counts["full"] + self.counts["popular"] + self.counts["rejected"]
        return self.counts[outcome] / num

    def p99_s(self) -> float:
        return sorted(self.accepted_s)[int(0.99 * len(self.accepted_s))]


class FloodWorld:
    def __init__(
        self, settings: OverloadSettings | None = None, costs: Costs | None = None, *, seed: int = 0
    ) -> None:
        settings = settings or OverloadSettings()
        self.costs = costs or Costs()
        self.now = 0.0
        self.limiter = ConcurrencyLimiter(settings, budget_s=BUDGET_S, highest=128)
        self.lag = LoopLag(settings, lambda: self.now)
        self.gate = FloodGate(settings, budget_s=BUDGET_S, limiter=self.limiter, lag=self.lag)
        self.seen = {kind: Seen() for kind in Criticality}
        self._beat_s = settings.beat_s
        self._beat_at = 0.0
        self._rng = random.Random(seed)
        self._numbers = count()
        self._unread: list[_Request] = []
        self._begun: list[_Request] = []
        self._at_store: list[tuple[float, int, _Request]] = []
        self._num_present = 0
        self._expect_beat()

    def forget(self) -> None:
        """Begin new counts."""
        self.seen = {kind: Seen() for kind in Criticality}

    def offer(
        self,
        rate: float,
        seconds: float,
        *,
        kinds: Sequence[Criticality] = (Criticality.DEFAULT,),
        popular_share: float = 0.65,
    ) -> None:
        """Offer Poisson arrivals of clients that ask once, for `seconds`."""
        at, ends_at = self.now, self.now + seconds
        while (at := at + self._rng.expovariate(rate)) < ends_at:
            client = Client(
                self._rng.choice(kinds), can_be_popular=self._rng.random() < popular_share
            )
            self._send(client, at)
        self.run(ends_at)

    def ask_at_once(self, num: int) -> None:
        """Offer `num` requests that all come now."""
        for _ in range(num):
            self._send(Client(), self.now)

    def connect(self, clients: Iterable[Client]) -> None:
        """Let clients begin to ask now."""
        for client in clients:
            self._send(client, self.now)

    def stall(self, seconds: float) -> None:
        """Hold the loop up."""
        self.now += seconds

    def run(self, until: float) -> None:
        while self.now < until:
            before = self.now
            self._go_round()
            if self.now == before:  # nothing was ready
                self.now = min(self._next_at(), until)

    def _go_round(self) -> None:
        begun, self._begun = self._begun, []
        came_by = self.now
        while self._unread and self._unread[0].at <= came_by:
            self._read(heapq.heappop(self._unread))
        for request in begun:
            self._begin(request)
        while self._at_store and self._at_store[0][0] <= came_by:
            _, _, request = heapq.heappop(self._at_store)
            self._finish(request)
        if self._beat_at <= self.now:
            self.lag.observe()
            self.gate.beat()
            self._expect_beat()

    def _next_at(self) -> float:
        unread = self._unread[0].at if self._unread else NEVER
        at_store = self._at_store[0][0] if self._at_store else NEVER
        return min(unread, at_store, self._beat_at)

    def _expect_beat(self) -> None:
        self._beat_at = self.now + self._beat_s
        self.lag.expect()

    def _send(self, client: Client, at: float) -> None:
        heapq.heappush(self._unread, _Request(at, next(self._numbers), client, sent_at=at))

    def _read(self, request: _Request) -> None:
        client = request.client
        if self._num_present >= self.gate.num_open:
            first = self.gate.decide(Arrival(None, quiet_until=client.quiet_until), self.now)
            if isinstance(first, Hold):
                request.at, request.is_held = first.until, True
                heapq.heappush(self._unread, request)
                return
        self.now += self.costs.read_s
        action: Pass | Hold | Reply = Pass()
        if self._num_present >= self.gate.num_open:
            waited_s = self.costs.read_s if request.is_held else self.now - request.at
            arrival = Arrival(client.criticality, self._num_present, waited_s)
            action = self.gate.decide(arrival, self.now)
        if isinstance(action, Reply):
            self._reply(request, action)
        else:
            self._num_present += 1
            self._begun.append(request)

    def _reply(self, request: _Request, reply: Reply) -> None:
        client = request.client
        self.now += self.costs.reply_s
        if reply.may_be_popular and client.can_be_popular:
            self.gate.count_popular()
            self._end(request, "popular")
        else:
            self.gate.count_rejection(client.criticality)
            client.quiet_until = self.now + reply.rest_s
            self._end(request, "rejected")

    def _begin(self, request: _Request) -> None:
        if self.limiter.admit(request.client.criticality) == Admission.FULL:
            ready_at = self.now + self.costs.store_s
            heapq.heappush(self._at_store, (ready_at, request.number, request))
        else:
            self.now += self.costs.popular_s
            self._num_present -= 1
            self._end(request, "popular")

    def _finish(self, request: _Request) -> None:
        has_time = self.now + self.gate.settings.answer_reserve_s < request.sent_at + BUDGET_S
        self.now += self.costs.answer_s if has_time else self.costs.popular_s
        self._num_present -= 1
        sample_s = self.now - request.at - self.costs.store_s + self.lag.seconds
        self.limiter.release(sample_s, now=self.now)
        self._end(request, "full" if has_time else "popular")

    def _end(self, request: _Request, outcome: str) -> None:
        seen, latency_s = self.seen[request.client.criticality], self.now - request.sent_at
        seen.counts[outcome] += 1
        if outcome != "rejected":
            seen.accepted_s.append(latency_s)
            seen.counts["in_time"] += latency_s <= BUDGET_S
            seen.counts[f"{outcome}_in_time"] += latency_s <= BUDGET_S
        if request.client.asks_again:
            self._send(request.client, self.now)
