"""Decides when to retry a failed call, and when to hedge a slow one.

Of HTTP it knows only the status and Retry-After of an error.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from thinkahead_client.errors import Busy, ClientError, Faulty, Unreachable

Result = TypeVar("Result")

_GATEWAY_FAULTS = (502, 504)  # statuses of a proxy in front of the service
_WINDOW = 256  # recent answers from which the hedge delay is computed
_MIN_SEEN = 20  # answers before the first hedge
_MAX_TOKENS = 5.0  # hedges in a row
_SLACK = 2.0  # maximum share of hedges, as a multiple of 1 - quantile


def pause_s(
    failure: ClientError, attempt: int, *, base_s: float, cap_s: float, rng: random.Random
) -> float | None:
    """Return the seconds to wait after failed attempt number `attempt` (from 0).

    None: a retry does not help. Full jitter (uniform from 0 to the exponential step) spreads the
    retries of callers that failed at the same time. A Retry-After is added to the jitter.
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
    """Computes the delay after which a request is sent a second time.

    The delay is the `quantile` of recent response times: at 0.95, one call in twenty is sent twice.
    A token bucket limits hedges to twice that share; otherwise a service that becomes slow would
    get double load.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._tokens = 1.0

    def record(self, seconds: float) -> None:
        """Record the seconds that the first request of a call took until its answer or its end."""
        self._seconds.append(seconds)
        self._tokens = min(self._tokens + _SLACK * (1.0 - self._quantile), _MAX_TOKENS)

    def delay_s(self) -> float | None:
        """Return the delay in seconds.

        None: fewer than 20 answers have been recorded, or no token is left.
        """
        if len(self._seconds) < _MIN_SEEN or self._tokens < 1.0:
            return None
        return sorted(self._seconds)[int(self._quantile * len(self._seconds))]

    def spend(self) -> None:
        """Spend one token for a second request."""
        self._tokens -= 1.0


async def first_answer(
    ask: Callable[[], Coroutine[Any, Any, Result]],
    *,
    delay_s: float,
    on_second: Callable[[], None],
) -> Result:
    """Return the first successful result of `ask`, called again after `delay_s` seconds.

    The other call is cancelled. If both fail, the error of the first call is raised.
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
