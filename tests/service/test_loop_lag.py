"""Lag of a real event loop that is really held up."""

import asyncio
import time

import pytest

from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import OverloadSettings

pytestmark = pytest.mark.system


STALL_S = 0.2


async def test_a_stall_shows_at_once_and_is_no_lateness_that_lasts() -> None:
    lag = LoopLag(OverloadSettings())
    assert lag.seconds == lag.steady_s == 0
    lag.start(lambda: None)
    time.sleep(STALL_S)  # noqa: ASYNC251  # which is the point
    assert lag.seconds > STALL_S / 2
    await asyncio.sleep(0.001)
    assert lag.steady_s < STALL_S / 4
    lag.stop()
    assert lag.seconds == 0


async def test_a_loop_that_stays_late_is_steadily_late() -> None:
    lag = LoopLag(OverloadSettings())
    lag.start(lambda: None)
    for _ in range(20):
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.sleep(0.001)
    assert lag.steady_s > 0.03
    lag.stop()


def test_lateness_that_lasted_is_forgotten_slowly() -> None:
    """A loop that rejects well is on time now and then."""
    settings = OverloadSettings()
    now = 0.0
    lag = LoopLag(settings, lambda: now)

    def beat(late_s: float) -> None:
        nonlocal now
        lag.expect()
        now += settings.beat_s + late_s
        lag.observe()

    for _ in range(3):
        beat(0.03)
    for _ in range(35):
        beat(0.0)
    assert 0.012 < lag.steady_s < 0.018
    for _ in range(1000):
        beat(0.0)
    assert lag.steady_s < 1e-6
