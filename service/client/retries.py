"""When a call is made again, and when a second time beside the first.

Knows nothing of HTTP but what a refusal says.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.client.errors import Busy, ClientError, Faulty, Unreachable

Result = TypeVar("Result")

_GATEWAY_FAULTS = (502, 504)  # of what stands before the service
_WINDOW = 256  # answers that the hedge's delay is taken from
_MIN_SEEN = 20
_MAX_TOKENS = 5.0
_SLACK = 2.0  # hedges at most, as a multiple of what the quantile leaves


def pause_s(
    failure: ClientError, attempt: int, *, base_s: float, cap_s: float, rng: random.Random
) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (from 0); None: trying is no use.

    Full jitter: anything from nothing to the exponential step, so that callers who failed together
    do not come back together. A Retry-After is waited for first.
    """
    jitter_s = rng.uniform(0.0, min(cap_s, base_s * 2.0**attempt))
    match failure:
        case Busy(retry_after_s=asked):
            return (asked or 0.0) + jitter_s
        case Faulty(status=status) if status in _GATEWAY_FAULTS:
            return jitter_s
        case Unreachable():
            return jitter_s
    return None


class Hedge:
    """How long to wait for an answer before the same is asked a second time.

    As long as the `quantile` of recent answers took, so that at .95 one call in twenty is asked
    twice; never more than twice that share, or a service that has become slow would get twice the
    load on top.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._tokens = 1.0

    def record(self, seconds: float) -> None:
        """How long the first request of a call took, or had taken when it was given up."""
        self._seconds.append(seconds)
        self._tokens = min(self._tokens + _SLACK * (1.0 - self._quantile), _MAX_TOKENS)

    def delay_s(self) -> float | None:
        """None while too little has been seen, or too much has been hedged of late."""
        if len(self._seconds) < _MIN_SEEN or self._tokens < 1.0:
            return None
        return sorted(self._seconds)[int(self._quantile * len(self._seconds))]

    def spend(self) -> None:
        """A second request is sent."""
        self._tokens -= 1.0


async def first_answer(
    ask: Callable[[], Coroutine[Any, Any, Result]],
    *,
    delay_s: float,
    on_second: Callable[[], None],
) -> Result:
    """Of `ask`, and of a second one if the first takes longer than `delay_s`.

    The one that is not needed is cancelled. If both fail, the first failure is raised.
    """
    first = asyncio.create_task(ask())
    tasks = {first}
    try:
        done, pending = await asyncio.wait(tasks, timeout=delay_s)
        if pending:
            on_second()
            tasks.add(asyncio.create_task(ask()))
        while tasks - done and not _answered(done):
            finished, _ = await asyncio.wait(tasks - done, return_when=asyncio.FIRST_COMPLETED)
            done |= finished
        return (_answered(done) or first).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _answered(tasks: set[asyncio.Task[Result]]) -> asyncio.Task[Result] | None:
    return next((task for task in tasks if task.exception() is None), None)
