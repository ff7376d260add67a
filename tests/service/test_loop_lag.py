"""Lag of a real event loop that is really held up."""

import asyncio
import time

from service.limits.loop_lag import LoopLag

STALL_S = 0.2


async def test_a_stall_shows_at_once_and_is_no_lateness_that_lasts() -> None:
    lag = LoopLag()
    assert lag.seconds == lag.steady_s == 0
    lag.start()
    time.sleep(STALL_S)  # noqa: ASYNC251  # which is the point
    assert lag.seconds > STALL_S / 2
    await asyncio.sleep(0.001)
    assert lag.steady_s < STALL_S / 4
    lag.stop()
    assert lag.seconds == 0


async def test_a_loop_that_stays_late_is_steadily_late() -> None:
    lag = LoopLag()
    lag.start()
    for _ in range(20):
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.sleep(0.001)
    assert lag.steady_s > 0.03
    lag.stop()
