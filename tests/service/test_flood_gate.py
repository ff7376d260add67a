"""The flood gate: each rule of `decide` alone, then all of them in a simulated process."""

from collections.abc import Callable

import pytest

from service.limits.concurrency import ConcurrencyLimiter
from service.limits.flood_gate import Arrival, FloodGate, Hold, Pass, Reply
from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import ByCriticality, OverloadSettings
from service.sources import Criticality
from tests.fakes.flood_world import BUDGET_S, Client, Costs, FloodWorld, Seen

SETTINGS = OverloadSettings()
SHEDDABLE, DEFAULT, CRITICAL = Criticality.SHEDDABLE, Criticality.DEFAULT, Criticality.CRITICAL
FAST = Costs(answer_s=0.0009, popular_s=0.0006, read_s=0.00005, reply_s=0.00005)  # a whole core
NOW = 1000.0


class Clock:
    """A gate whose loop is as late as the test says."""

    def __init__(self) -> None:
        self.now = NOW
        self.limiter = ConcurrencyLimiter(SETTINGS, budget_s=BUDGET_S, highest=128)
        self.lag = LoopLag(SETTINGS, lambda: self.now)
        self.gate = FloodGate(SETTINGS, budget_s=BUDGET_S, limiter=self.limiter, lag=self.lag)

    def beat(self, late_s: float, *, times: int = 1) -> None:
        for _ in range(times):
            self.lag.expect()
            self.now += SETTINGS.beat_s + late_s
            self.lag.observe()
            self.gate.beat()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def late(clock: Clock) -> FloodGate:
    """Overload a gate, take its `popular` answers away, and let the last beat be on time."""
    clock.beat(0.02, times=2)
    clock.gate.popular_left = 0
    clock.beat(0.0)  # lateness is forgotten slowly
    assert clock.gate.is_strict
    return clock.gate


def rejects(action: Pass | Hold | Reply) -> bool:
    return isinstance(action, Reply) and not action.may_be_popular


def gives_popular(action: Pass | Hold | Reply) -> bool:
    return isinstance(action, Reply) and action.may_be_popular


def test_on_time_requests_pass_until_a_burst_is_too_large(clock: Clock) -> None:
    clock.beat(0.0)
    gate = clock.gate
    assert gate.num_open == SETTINGS.burst
    assert gate.decide(Arrival(DEFAULT, SETTINGS.burst - 1, 1.0), NOW) == Pass()
    assert gives_popular(gate.decide(Arrival(DEFAULT, SETTINGS.burst), NOW))


def test_a_single_stall_is_no_overload(clock: Clock) -> None:
    clock.beat(0.4)
    clock.beat(0.001, times=3)
    assert not clock.gate.is_strict


def test_the_gate_stays_strict_while_it_rejects_many(clock: Clock) -> None:
    """A loop that rejects well is on time now and then, and would admit a burst."""
    clock.beat(0.02, times=2)
    for _ in range(5):
        for _ in range(20):
            clock.gate.count_rejection(DEFAULT)
        clock.beat(0.0, times=30)
        assert clock.gate.is_strict
        assert clock.gate.num_open == 0
    clock.beat(0.0, times=100)
    assert not clock.gate.is_strict


@pytest.mark.parametrize(("num_rejected", "is_flooded"), [(100, False), (300, True)])
def test_a_few_rejections_among_many_requests_are_no_flood(
    clock: Clock, late: FloodGate, num_rejected: int, is_flooded: bool
) -> None:
    clock.limiter.num_admitted += 1000
    for _ in range(num_rejected):
        late.count_rejection(DEFAULT)
    clock.beat(0.0)
    assert late.is_flooded == is_flooded
    assert clock.limiter.is_flooded == is_flooded


def test_rejections_alone_make_no_gate_strict(clock: Clock) -> None:
    for _ in range(1000):
        clock.gate.count_rejection(DEFAULT)
    clock.beat(0.0)
    assert not clock.gate.is_strict


def test_a_wait_alone_rejects_nothing(late: FloodGate) -> None:
    """A machine that is busy with other work makes the loop late, also for a lone client."""
    assert late.decide(Arrival(DEFAULT, 0, 10 * BUDGET_S), NOW) == Pass()


def test_in_a_flood_a_request_that_has_waited_is_not_begun(clock: Clock, late: FloodGate) -> None:
    for _ in range(12):
        late.count_rejection(DEFAULT)
    clock.beat(0.0)
    patience_s = SETTINGS.patience * BUDGET_S
    assert rejects(late.decide(Arrival(DEFAULT, 0, 1.1 * patience_s), NOW))
    assert late.decide(Arrival(DEFAULT, 0, 0.9 * patience_s), NOW) == Pass()


def test_a_late_loop_has_room_by_criticality(late: FloodGate) -> None:
    limit = late.limiter.limit
    for kind in Criticality:
        bound = round(limit * SETTINGS.admitted.of(kind))
        assert late.decide(Arrival(kind, bound - 1), NOW) == Pass()
        assert rejects(late.decide(Arrival(kind, bound), NOW))


def test_a_connection_is_held_until_its_rest_is_over(late: FloodGate) -> None:
    quiet_until = NOW + 0.1
    assert late.decide(Arrival(None, quiet_until=quiet_until), NOW) == Hold(quiet_until)
    assert late.decide(Arrival(None, quiet_until=quiet_until), quiet_until) == Pass()


def test_a_request_without_criticality_passes(late: FloodGate) -> None:
    assert late.decide(Arrival(None, 10_000, 10.0), NOW) == Pass()


def test_decide_changes_nothing(clock: Clock) -> None:
    clock.beat(0.02, times=2)
    clock.beat(0.0)
    request = Arrival(DEFAULT, 1000)
    decisions = {clock.gate.decide(request, NOW) for _ in range(1000)}
    assert len(decisions) == 1
    assert clock.gate.popular_left == SETTINGS.popular_saved


def test_popular_answers_are_earned_by_admitted_requests(clock: Clock, late: FloodGate) -> None:
    for _ in range(3):
        clock.limiter.admit(DEFAULT)
    clock.beat(0.0)
    assert late.popular_left == 3 * SETTINGS.popular_per_admitted
    late.count_popular()
    clock.beat(0.0)
    assert late.popular_left == 3 * SETTINGS.popular_per_admitted - 1


@pytest.mark.parametrize(
    ("num_left", "have_it"),
    [(97, {SHEDDABLE, DEFAULT, CRITICAL}), (96, {DEFAULT, CRITICAL}), (32, {CRITICAL}), (0, set())],
)
def test_the_last_popular_answers_are_for_the_more_critical(
    late: FloodGate, num_left: int, have_it: set[Criticality]
) -> None:
    """Otherwise sheddable clients that ask again at once have them all."""
    late.popular_left = num_left
    given = {kind for kind in Criticality if gives_popular(late.decide(Arrival(kind, 1000), NOW))}
    assert given == have_it


def test_an_answer_that_would_be_late_is_a_rejection(clock: Clock, late: FloodGate) -> None:
    late.popular_left = 100
    patience_s = SETTINGS.popular_patience * BUDGET_S
    assert gives_popular(late.decide(Arrival(DEFAULT, 1000, 0.9 * patience_s), NOW))
    assert rejects(late.decide(Arrival(DEFAULT, 1000, patience_s), NOW))
    clock.beat(0.5 * patience_s)
    assert rejects(late.decide(Arrival(DEFAULT, 1000, 0.6 * patience_s), NOW))


def test_criticalities_are_in_order() -> None:
    for each in (SETTINGS.admitted, SETTINGS.popular_reserved):
        assert isinstance(each, ByCriticality)
    admitted, reserved = SETTINGS.admitted, SETTINGS.popular_reserved
    assert admitted.sheddable < admitted.default < admitted.critical
    assert reserved.sheddable > reserved.default > reserved.critical


# The simulation. Figures are multiples of the capacity where they are rates.


def offered(times: float, *, seed: int = 0, seconds: float = 6.0) -> tuple[FloodWorld, Seen]:
    """Offer `times` the capacity; return the world and its outcomes after the first 2 s."""
    world = FloodWorld(seed=seed)
    capacity = world.costs.capacity
    world.offer(capacity / 2, 2)
    world.offer(times * capacity, 2)
    world.forget()
    world.offer(times * capacity, seconds)
    return world, world.seen[DEFAULT]


def test_below_capacity_every_answer_is_whole() -> None:
    _, seen = offered(0.6)
    assert seen.share("full_in_time") == 1


def test_near_capacity_nearly_all_are_answered_in_time() -> None:
    _, seen = offered(1.0)
    assert seen.share("in_time") > 0.9
    assert seen.share("full") > 0.85


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("times", "full"), [(2, 0.8), (5, 0.65), (10, 0.4)])
def test_a_flood_gets_more_answers_in_time_than_there_is_capacity(
    times: float, full: float, seed: int
) -> None:
    """Simulate R3; `full` is the share of the capacity that whole answers have at least."""
    world, seen = offered(times, seed=seed)
    capacity = 6 * world.costs.capacity
    assert seen.counts["in_time"] > 1.5 * capacity
    assert seen.counts["full_in_time"] > full * capacity
    assert seen.p99_s() < BUDGET_S


@pytest.mark.parametrize("seed", range(4))
def test_after_a_flood_answers_are_whole_within_a_second(seed: int) -> None:
    world, _ = offered(10, seed=seed)
    world.offer(world.costs.capacity / 2, 1)
    world.forget()
    world.offer(world.costs.capacity / 2, 3)
    assert world.seen[DEFAULT].share("full_in_time") > 0.99


@pytest.mark.parametrize(("num", "slowest_s"), [(64, 0.1), (128, 0.1), (256, 0.2)])
def test_a_burst_is_answered(num: int, slowest_s: float) -> None:
    world = FloodWorld(costs=FAST)
    world.run(1)
    world.ask_at_once(num)
    world.run(3)
    seen = world.seen[DEFAULT]
    assert seen.counts["rejected"] == 0
    assert max(seen.accepted_s) < slowest_s


def test_of_a_burst_that_is_too_large_some_are_answered_soon() -> None:
    world = FloodWorld(costs=FAST)
    world.run(1)
    world.ask_at_once(1000)
    world.run(3)
    seen = world.seen[DEFAULT]
    assert seen.share("rejected") > 0.4
    assert seen.share("in_time") > 0.1
    assert max(seen.accepted_s) < 0.3


@pytest.mark.parametrize("stall_s", [0.1, 0.4])
@pytest.mark.parametrize("costs", [Costs(), FAST])
def test_a_stall_rejects_nothing(costs: Costs, stall_s: float) -> None:
    world = FloodWorld(costs=costs)
    world.offer(costs.capacity / 3, 2)
    world.stall(stall_s)
    world.offer(costs.capacity / 3, 2)
    assert world.seen[DEFAULT].counts["rejected"] == 0


@pytest.mark.parametrize("store_s", [0.02, 0.05])
def test_after_a_flood_a_slow_store_keeps_no_gate_strict(store_s: float) -> None:
    """Many requests are in the process then, as they wait for the store."""
    world = FloodWorld(costs=Costs(store_s=store_s))
    capacity = world.costs.capacity
    world.offer(10 * capacity, 4)
    world.offer(capacity / 2, 2)
    world.forget()
    world.offer(capacity / 2, 4)
    assert not world.gate.is_strict
    assert world.seen[DEFAULT].share("full") > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_in_a_mixed_flood_the_more_critical_have_more(seed: int) -> None:
    world = FloodWorld(seed=seed)
    world.offer(5 * world.costs.capacity, 1, kinds=tuple(Criticality))
    world.forget()
    world.offer(5 * world.costs.capacity, 4, kinds=tuple(Criticality))
    full = [world.seen[kind].share("full") for kind in (SHEDDABLE, DEFAULT, CRITICAL)]
    rejected = [world.seen[kind].share("rejected") for kind in (CRITICAL, DEFAULT, SHEDDABLE)]
    assert full[0] < full[2] / 3
    assert full[1] < full[2] / 2
    assert rejected[0] < min(rejected[1:])


def test_clients_that_ask_again_at_once_do_not_take_all_the_time() -> None:
    """Critical clients have most of the time."""
    world = FloodWorld(costs=FAST)
    world.connect(
        Client(kind, asks_again=True) for kind in (CRITICAL, SHEDDABLE) for _ in range(150)
    )
    world.run(4)
    critical, sheddable = world.seen[CRITICAL], world.seen[SHEDDABLE]
    assert critical.counts["full_in_time"] > 0.4 * 4 * FAST.capacity
    assert critical.counts["full"] > 5 * sheddable.counts["full"]
    assert critical.share("rejected") < sheddable.share("rejected")


def test_a_simulation_repeats_with_its_seed() -> None:
    runs: list[Callable[[], Seen]] = [lambda: offered(5, seed=3, seconds=1)[1]] * 2
    first, second = (run() for run in runs)
    assert first == second
