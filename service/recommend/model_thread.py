"""One thread for the model, behind a bounded queue.

A job is a function and its deadline on the monotonic clock. Jobs run one at a time. Knows nothing
of recommendations.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class NotDoneError(Exception):
    """Base of the errors below: a job gave no result in time."""


class QueueFullError(NotDoneError):
    """Too many jobs wait, so the job was not accepted."""


class OutOfTimeError(NotDoneError):
    """Deadline passed before the result came; the job may still be running."""

    def __init__(self, spent: "Spent") -> None:
        super().__init__("out of time")
        self.spent = spent


class JobFailedError(NotDoneError):
    """Exception in the job; the traceback is in the log."""


class Spent(NamedTuple):
    """Time of a job."""

    queue_s: float  # seconds in the queue
    run_s: float  # seconds on the thread


class Done(NamedTuple, Generic[T]):
    """Result of a job."""

    value: T
    spent: Spent


class ModelThread:
    """A thread that runs jobs for one event loop. Call `start` before `run`."""

    def __init__(self, *, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._limit = limit
        self._monotonic = monotonic
        self._num_accepted = 0  # jobs that are queued or running
        self._thread = threading.Thread(target=self._work, name="finish", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Run the queued jobs, then end the thread. Blocks until then."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        return self._jobs.qsize()

    async def run(
        self, function: Callable[[], T], *, deadline: float, is_brief: bool = False
    ) -> Done[T]:
        """Call `function` on the thread and return its result.

        is_brief: the function takes less time than the hand-over to the thread would, so the event
        loop calls it while the thread is idle. Raises QueueFullError at once, OutOfTimeError at
        the deadline, and JobFailedError when the function raised.
        """
        queued_at, loop = self._monotonic(), asyncio.get_running_loop()
        if queued_at >= deadline:
            raise OutOfTimeError(Spent(0.0, 0.0))
        if is_brief and not self._num_accepted:
            return self._run_here(function, queued_at)
        if self._jobs.qsize() >= self._limit:  # only this loop puts, so it cannot grow in between
            raise QueueFullError
        job = _Job(function, deadline, queued_at, loop, self._has_ended)
        self._num_accepted += 1
        self._jobs.put(job)
        timer = loop.call_later(deadline - queued_at, job.expire)
        try:
            value = await job.result
        except TimeoutError as exc:
            raise OutOfTimeError(job.spent(self._monotonic())) from exc
        finally:
            timer.cancel()
        return Done(value, job.spent(self._monotonic()))

    def _run_here(self, function: Callable[[], T], began_at: float) -> Done[T]:
        try:
            value = function()
        except Exception as exc:
            logger.exception("a job of the model thread failed")
            raise JobFailedError(str(exc)) from exc
        return Done(value, Spent(0.0, self._monotonic() - began_at))

    def _has_ended(self) -> None:
        self._num_accepted -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._monotonic)


class _Job:
    """A job: made on the event loop, run on the thread, settled on the event loop."""

    def __init__(
        self,
        function: Callable[[], Any],
        deadline: float,
        queued_at: float,
        loop: asyncio.AbstractEventLoop,
        has_ended: Callable[[], None],
    ) -> None:
        """has_ended: called on the event loop after the thread ran or skipped the job."""
        self.result: asyncio.Future[Any] = loop.create_future()
        self._function = function
        self._deadline = deadline
        self._queued_at = queued_at
        self._loop = loop
        self._has_ended = has_ended
        self._began_at: float | None = None
        self._ended_at: float | None = None

    def spent(self, now: float) -> Spent:
        """Return the seconds in the queue and on the thread, up to `now` if it has not ended."""
        began_at = self._began_at if self._began_at is not None else now
        ended_at = self._ended_at if self._ended_at is not None else now
        return Spent(began_at - self._queued_at, max(ended_at - began_at, 0.0))

    def expire(self) -> None:
        """End the wait for the result; the job itself may go on."""
        if not self.result.done():
            self.result.set_exception(TimeoutError())

    def run(self, monotonic: Callable[[], float]) -> None:
        """Call the function, unless the deadline has passed or the caller has stopped waiting."""
        value, failure, began_at = None, None, monotonic()
        if not self.result.done() and began_at < self._deadline:
            self._began_at = began_at
            try:
                value = self._function()
            except Exception as exc:
                logger.exception("a job of the model thread failed")
                failure = exc
            self._ended_at = monotonic()
        with suppress(RuntimeError):  # the loop was closed while the job ran
            self._loop.call_soon_threadsafe(self._settle, value, failure)

    def _settle(self, value: Any, failure: Exception | None) -> None:
        self._has_ended()
        if self.result.done() or self._ended_at is None:
            return
        if failure is None:
            self.result.set_result(value)
        else:
            self.result.set_exception(JobFailedError(str(failure)))
