"""Endless open-loop load from a thread, until it is stopped.

Questions come at the times of a Poisson process, and latencies count from these times. Knows
nothing of the content of questions.
"""

import asyncio
import gc
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from bench.load.answer_checks import Question, Questioner, Reply
from bench.load.http_connection import Address, Answer, Connection
from bench.load.open_loop import NUM_CONNECTIONS, precise_loop

PATIENCE_S = 10.0
_PRECISE_CONNECTIONS = 900  # select(2) takes no descriptor above 1,023
_START_TIMEOUT_S = 30.0


class LoadStream:
    """A thread with its own event loop; `replies` grows in the order of the answers."""

    def __init__(
        self,
        address: Address,
        questioner: Questioner,
        *,
        rate: float,
        num_connections: int = NUM_CONNECTIONS,
        patience_s: float = PATIENCE_S,
        settle_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare the load.

        Args:
            rate: questions per second.
            patience_s: a question is given up this long after its time, sent or not.
            settle_s: wait between opening the connections and the first question.

        Raises:
            ValueError: without a connection or a rate, the load would never end.
        """
        if num_connections < 1 or rate <= 0:
            raise ValueError(f"{rate} questions/s on {num_connections} connections: both above 0")
        self.replies: list[Reply] = []
        self._address = address
        self._questioner = questioner
        self._rate = rate
        self._num_connections = num_connections
        self._patience_s = patience_s
        self._settle_s = settle_s
        self._rng = np.random.default_rng(seed)
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="load")

    def since(self, moment: float, until: float = float("inf")) -> list[Reply]:
        """Return the replies to questions due from `moment` to before `until` (monotonic)."""
        return [reply for reply in self.replies if moment <= reply.due_at < until]

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()  # a full collection beside a loaded catalog stops the load for 0.2 s (measured)
        self._thread.start()
        self._started.wait(_START_TIMEOUT_S)
        return self

    def stop(self) -> None:
        """Stop sending; return when all open questions are answered or given up."""
        self._stopping.set()
        self._thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        gc.unfreeze()
        if self._failure is not None and error is None:
            raise self._failure

    def _main(self) -> None:
        try:
            is_many = self._num_connections > _PRECISE_CONNECTIONS
            with asyncio.Runner(loop_factory=None if is_many else precise_loop) as runner:
                runner.run(self._run())
        except BaseException as exc:  # noqa: BLE001 - raised where the thread was started
            self._failure = exc
        finally:
            self._started.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Queue[Question] = asyncio.Queue()
        connections = [Connection(self._address) for _ in range(self._num_connections)]
        await asyncio.gather(*(connection.open() for connection in connections))
        await asyncio.sleep(self._settle_s)
        workers = [asyncio.create_task(self._work(each)) for each in connections]
        self._started.set()
        release = asyncio.create_task(self._release())
        await asyncio.wait([release, *workers], return_when=asyncio.FIRST_COMPLETED)
        await _until_answered(self._due, workers)
        for connection in connections:
            connection.close()
        await release

    async def _release(self) -> None:
        """Draw and queue each question at its time."""
        due_at = self._loop.time()
        while not self._stopping.is_set():
            due_at += self._rng.exponential(1 / self._rate)
            if (pause_s := due_at - self._loop.time()) > 0:
                await asyncio.sleep(pause_s)
            self._due.put_nowait(self._questioner.draw(due_at))

    async def _work(self, connection: Connection) -> None:
        while True:
            question = await self._due.get()
            answer = await self._ask(connection, question)
            now = self._loop.time()
            self.replies.append(self._questioner.judge(question, answer, now))
            self._due.task_done()

    async def _ask(self, connection: Connection, question: Question) -> Answer | None:
        gives_up_at = question.asked_at + self._patience_s
        if self._loop.time() >= gives_up_at:
            return None
        try:
            async with asyncio.timeout_at(gives_up_at):
                return await connection.exchange(question.payload)
        except TimeoutError:
            connection.close()
            return None


async def _until_answered(
    due: "asyncio.Queue[Question]", workers: Sequence["asyncio.Task[None]"]
) -> None:
    """Wait for the open questions, then cancel the workers. Raises a worker's exception."""
    joined = asyncio.ensure_future(due.join())
    await asyncio.wait([joined, *workers], return_when=asyncio.FIRST_COMPLETED)
    joined.cancel()
    for worker in workers:
        worker.cancel()
    for end in await asyncio.gather(*workers, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
