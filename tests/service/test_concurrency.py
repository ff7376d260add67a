"""The limiter against a simulated process: one core, a queue, a rate; no real time passes."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

import pytest

from service.limits.concurrency import Admission, ConcurrencyLimiter
from service.limits.overload_settings import OverloadSettings
from service.sources import Criticality

BUDGET_S = 0.1


@dataclass
class Core:
    """One core that works on requests in turn. Requests that are not admitted cost nothing."""

    limiter: ConcurrencyLimiter
    service_s: float  # CPU seconds of a request
    store_s: float = 0.0  # seconds at the store before, without CPU
    now: float = 0.0
    free_at: float = 0.0  # end of the work that is queued now
    total_s: list[float] = field(default_factory=list)  # latencies
    counts: Counter[tuple[Criticality, Admission]] = field(default_factory=Counter)
    _ends: list[tuple[float, float]] = field(default_factory=list)  # end, sample

    def run(
        self,
        *,
        rate: float,
        seconds: float,
        kinds: tuple[Criticality, ...] = (Criticality.DEFAULT,),
    ) -> None:
        """Offer requests at a fixed rate, and forget the counts of earlier runs."""
        self.total_s.clear()
        self.counts.clear()
        for at in range(int(rate * seconds)):
            self.now += 1 / rate
            self._settle()
            kind = kinds[at % len(kinds)]
            admission = self.limiter.admit(kind)
            self.counts[kind, admission] += 1
            if admission == Admission.FULL:
                self._work()

    def share(self, kind: Criticality = Criticality.DEFAULT) -> float:
        """Return the admitted share of the requests of a kind."""
        full, popular = (self.counts[kind, each] for each in (Admission.FULL, Admission.POPULAR))
        return full / (full + popular)

    def p99_s(self) -> float:
        return sorted(self.total_s)[int(0.99 * len(self.total_s))]

    def _work(self) -> None:
        ready_at = self.now + self.store_s
        self.free_at = max(self.free_at, ready_at) + self.service_s
        heapq.heappush(self._ends, (self.free_at, self.free_at - ready_at))
        self.total_s.append(self.free_at - self.now)

    def _settle(self) -> None:
        while self._ends and self._ends[0][0] <= self.now:
            ended_at, sample_s = heapq.heappop(self._ends)
            self.limiter.release(sample_s, now=ended_at)


def core(service_s: float = 0.0005, store_s: float = 0.0005, highest: int = 128) -> Core:
    limiter = ConcurrencyLimiter(OverloadSettings(), budget_s=BUDGET_S, highest=highest)
    return Core(limiter, service_s=service_s, store_s=store_s)


def test_below_capacity_nobody_is_shed() -> None:
    world = core()
    world.run(rate=1600, seconds=30)
    assert world.share() == 1


@pytest.mark.parametrize("service_s", [0.0002, 0.0005, 0.002, 0.005])
def test_at_ten_times_the_capacity_the_core_is_kept_busy_and_answers_come_in_time(
    service_s: float,
) -> None:
    world = core(service_s)
    capacity = 1 / service_s
    world.run(rate=capacity / 2, seconds=2)
    world.run(rate=10 * capacity, seconds=2)  # until the limit has found its place
    world.run(rate=10 * capacity, seconds=10)
    assert world.counts[Criticality.DEFAULT, Admission.FULL] / 10 > 0.95 * capacity
    assert world.p99_s() < BUDGET_S


def test_an_overload_that_lasts_is_not_taken_for_normal() -> None:
    world = core(0.002)
    world.run(rate=5000, seconds=10)
    early = world.limiter.limit
    world.run(rate=5000, seconds=120)
    assert world.limiter.limit < 1.5 * early
    assert world.p99_s() < BUDGET_S


def test_after_an_overload_all_is_as_before_within_seconds() -> None:
    world = core(0.002)
    world.run(rate=5000, seconds=60)
    world.run(rate=400, seconds=1)
    world.run(rate=400, seconds=10)
    assert world.share() == 1


def test_a_slow_store_is_no_reason_to_shed() -> None:
    """1,500 requests per second of 20 ms keep over 30 in work, and the core has time to spare."""
    world = core(service_s=0.0003)
    world.run(rate=1500, seconds=5)
    world.store_s = 0.02
    world.run(rate=1500, seconds=2)
    world.run(rate=1500, seconds=20)
    assert world.share() == 1


def test_a_core_that_becomes_slower_is_given_less_and_more_again_later() -> None:
    world = core(0.0005)
    world.run(rate=5000, seconds=20)
    fast = world.limiter.limit
    world.service_s = 0.004
    world.run(rate=5000, seconds=3)
    world.run(rate=5000, seconds=20)
    slow = world.limiter.limit
    assert world.p99_s() < BUDGET_S
    assert slow < fast / 2
    world.service_s = 0.0005
    world.run(rate=5000, seconds=20)
    assert world.limiter.limit > 0.8 * fast


def test_sheddable_requests_go_first_and_critical_ones_last() -> None:
    world = core()
    kinds = (Criticality.SHEDDABLE, Criticality.DEFAULT, Criticality.CRITICAL)
    world.run(rate=5000, seconds=30, kinds=kinds)
    sheddable, default, critical = (world.share(kind) for kind in kinds)
    assert sheddable < default < critical
    assert critical > 0.99


def test_an_idle_limit_does_not_creep() -> None:
    world = core()
    world.run(rate=100, seconds=600)
    assert world.limiter.limit == OverloadSettings().first_limit


def test_the_highest_limit_is_held_and_a_place_given_back_even_without_a_sample() -> None:
    limiter = ConcurrencyLimiter(OverloadSettings(), budget_s=BUDGET_S, highest=2)
    admissions = [limiter.admit(Criticality.DEFAULT) for _ in range(3)]
    assert admissions == [Admission.FULL, Admission.FULL, Admission.POPULAR]
    assert limiter.saturation == 1
    limiter.release(None, now=0.0)
    assert limiter.admit(Criticality.DEFAULT) == Admission.FULL


def test_a_slow_answer_now_and_then_is_no_trend() -> None:
    """Otherwise an idle process would meet the next burst with the least limit."""
    limiter = ConcurrencyLimiter(OverloadSettings(), budget_s=BUDGET_S, highest=128)
    for at in range(1000):
        limiter.admit(Criticality.DEFAULT)
        limiter.release(BUDGET_S if at % 20 == 0 else 0.003, now=at / 10)
    assert limiter.limit == OverloadSettings().first_limit


def test_the_limit_has_a_floor() -> None:
    limiter = ConcurrencyLimiter(OverloadSettings(), budget_s=BUDGET_S, highest=128)
    for at in range(200):
        limiter.admit(Criticality.DEFAULT)
        limiter.release(BUDGET_S, now=at / 10)
    assert limiter.limit == OverloadSettings().calm_limit
    limiter.is_flooded = True
    assert limiter.limit == OverloadSettings().least_limit
