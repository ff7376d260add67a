"""The breaker on its own clock: outages of every kind, and errors that are none."""

import random
from collections.abc import Callable

import pytest

from service.users.breaker import FAILURES_TO_OPEN, SUCCESSES_TO_CLOSE, Breaker

PROBE_S = 0.1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Calls at a rate through a breaker, and the probes that its watch sends beside them."""

    def __init__(self, *, rate: float, timeout_s: float) -> None:
        self.clock = Clock()
        self.doubts = 0
        self.breaker = Breaker(clock=self.clock, on_doubt=self._doubt)
        self.num_asked = 0
        self._rate = rate
        self._timeout_s = timeout_s
        self._probe_at = self.clock.now

    def _doubt(self) -> None:
        self.doubts += 1
        self._probe_at = self.clock.now

    def run(self, seconds: float, *, is_up: Callable[[], bool]) -> float | None:
        """Seconds until the breaker changed its mind; None if it did not."""
        was_open, began_at = self.breaker.is_open, self.clock.now
        call_at = began_at
        while self.clock.now < began_at + seconds:
            if self._probe_at <= call_at:
                self.clock.now = max(self.clock.now, self._probe_at)
                self._probe_at = self.clock.now + self._pause_s()
                self._call(is_up(), tell=self.breaker.record_probe)
            else:
                self.clock.now = max(self.clock.now, call_at)
                call_at += 1 / self._rate
                if not self.breaker.is_open:
                    self.num_asked += 1
                    self._call(is_up(), tell=self.breaker.record_success)
            if self.breaker.is_open != was_open:
                return self.clock.now - began_at
        return None

    def _call(self, is_up: bool, *, tell: Callable[[], None]) -> None:
        if is_up:
            tell()
        else:
            self.clock.now += self._timeout_s
            self.breaker.record_failure()

    def _pause_s(self) -> float:
        return PROBE_S if self.breaker.is_in_doubt else 1.0


def up() -> bool:
    return True


def down() -> bool:
    return False


@pytest.mark.parametrize("rate", [0.5, 10, 1000])
@pytest.mark.parametrize("timeout_s", [0.0002, 0.02, 0.1], ids=["refused", "hung", "very slow"])
def test_an_outage_opens_it_within_a_second_of_the_first_failure(
    rate: float, timeout_s: float
) -> None:
    world = World(rate=rate, timeout_s=timeout_s)
    assert world.run(10, is_up=up) is None
    world.num_asked = 0
    world.run(3, is_up=down)
    assert world.breaker.is_open
    assert world.num_asked <= FAILURES_TO_OPEN
    assert world.doubts == 1
    first_failure_to_open_s = (FAILURES_TO_OPEN - 1) * (PROBE_S + timeout_s)
    assert first_failure_to_open_s < 1


@pytest.mark.parametrize("timeout_s", [0.0002, 0.02])
def test_at_a_rate_it_opens_within_a_second_of_the_outage(timeout_s: float) -> None:
    world = World(rate=100, timeout_s=timeout_s)
    world.run(5, is_up=up)
    seconds = world.run(5, is_up=down)
    assert seconds is not None
    assert seconds < 1


def test_it_stays_open_without_a_request_and_closes_soon_after_the_return() -> None:
    world = World(rate=1000, timeout_s=0.02)
    world.run(1, is_up=down)
    world.num_asked = 0
    assert world.run(60, is_up=down) is None
    assert world.num_asked == 0
    seconds = world.run(5, is_up=up)
    assert seconds is not None
    assert seconds < 0.5


def test_half_of_the_calls_failing_opens_it_and_a_few_do_not() -> None:
    draw = random.Random(7)
    fine = World(rate=500, timeout_s=0.02)
    assert fine.run(30, is_up=lambda: draw.random() > 0.05) is None
    ailing = World(rate=500, timeout_s=0.001)
    turns = iter(range(1_000_000))
    assert ailing.run(2, is_up=lambda: next(turns) % 2 == 0) is not None


def test_a_few_failures_among_few_calls_are_no_outage() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(4):
        breaker.record_failure()
        breaker.record_success()
    assert not breaker.is_open
    assert not breaker.is_in_doubt


def test_old_failures_do_not_count() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for at in range(100):
        clock.now += 0.3
        if at % 2:
            breaker.record_failure()
        else:
            breaker.record_success()
    assert not breaker.is_open


def test_answers_that_were_under_way_when_it_opened_do_not_close_it() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure()
    for _ in range(100):
        breaker.record_success()
    assert breaker.is_open


def test_a_store_that_answers_now_and_then_is_not_back() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure()
    for _ in range(20):
        for _ in range(SUCCESSES_TO_CLOSE - 1):
            breaker.record_probe()
        breaker.record_failure()
    assert breaker.is_open


def test_what_led_to_the_last_outage_does_not_lead_to_another() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(50):
        breaker.record_failure()
    for _ in range(SUCCESSES_TO_CLOSE):
        breaker.record_probe()
    breaker.record_failure()
    assert not breaker.is_open
