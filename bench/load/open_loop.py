"""Open-loop load: requests have fixed send times, independent of earlier answers.

A fixed pool of connections takes the due requests in order. A request waits if no connection is
free. Its latency counts from the intended send time, so that a stall counts for the requests behind
it too (no coordinated omission). Knows nothing of the content of requests.
"""

import asyncio
import gc
import selectors
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from bench.load.arrivals import Request
from bench.load.http_connection import Address, Answer, Connection

NUM_CONNECTIONS = 64
_LEAD_S = 0.05  # from opening the connections to the start of the run
_PATIENCE_S = 5.0  # wait for the last answers


class Outcome(NamedTuple):
    """Result of one request."""

    request: Request
    latency_s: float  # from the intended send time to the end of the answer, or to giving up
    lag_s: float  # from the intended send time to the generator's handling: its own delay
    answer: Answer | None  # None if there was none


def run_open_loop(
    address: Address,
    requests: Sequence[Request],
    *,
    num_connections: int = NUM_CONNECTIONS,
    patience_s: float = _PATIENCE_S,
    keeps_bodies: bool = True,
) -> list[Outcome]:
    """Send every request at its time; return outcomes in the order of `requests` (by due_s).

    keeps_bodies: False drops the bodies of answers as they come, for a long run.

    Raises OSError if no connection can be opened.
    """
    with _no_collections(), asyncio.Runner(loop_factory=precise_loop) as runner:
        run = _Run(address, requests, keeps_bodies=keeps_bodies)
        return runner.run(run.run(num_connections, patience_s))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Disable garbage collection: with a loaded catalog, a full one takes 0.2 s (measured)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop on select(2), which wakes to the microsecond.

    epoll and uvloop round every pause up to a millisecond, which would add to each latency.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class _Run:
    def __init__(
        self, address: Address, requests: Sequence[Request], *, keeps_bodies: bool
    ) -> None:
        self._address = address
        self._keeps_bodies = keeps_bodies
        self._requests = requests
        self._lag_s = [0.0] * len(requests)
        self._outcomes: list[Outcome | None] = [None] * len(requests)
        self._due: asyncio.Queue[int] = asyncio.Queue()

    async def run(self, num_connections: int, patience_s: float) -> list[Outcome]:
        self._loop = asyncio.get_running_loop()
        connections = [Connection(self._address) for _ in range(num_connections)]
        await asyncio.gather(*(connection.open() for connection in connections))
        self._start = self._loop.time() + _LEAD_S
        workers = [asyncio.create_task(self._work(each)) for each in connections]
        await self._release()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._due.join(), patience_s)
        await _cancel(workers)
        for connection in connections:
            connection.close()
        return [
            outcome or self._outcome(index, None) for index, outcome in enumerate(self._outcomes)
        ]

    async def _release(self) -> None:
        """Queue each request at its time."""
        for index, request in enumerate(self._requests):
            if (pause_s := self._start + request.due_s - self._loop.time()) > 0:
                await asyncio.sleep(pause_s)
            self._lag_s[index] = self._loop.time() - self._start - request.due_s
            self._due.put_nowait(index)

    async def _work(self, connection: Connection) -> None:
        while True:
            index = await self._due.get()
            answer = await connection.exchange(self._requests[index].payload)
            if answer is not None and not self._keeps_bodies:
                answer = answer._replace(body=b"")
            self._outcomes[index] = self._outcome(index, answer)
            self._due.task_done()

    def _outcome(self, index: int, answer: Answer | None) -> Outcome:
        request = self._requests[index]
        latency_s = self._loop.time() - self._start - request.due_s
        return Outcome(request, latency_s, self._lag_s[index], answer)


async def _cancel(workers: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the workers. Raises the exception of a worker that failed."""
    for worker in workers:
        worker.cancel()
    for end in await asyncio.gather(*workers, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
