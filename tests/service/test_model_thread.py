"""The model thread: one thread, a bounded queue, deadlines."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.recommend.model_thread import (
    JobFailedError,
    ModelThread,
    OutOfTimeError,
    QueueFullError,
)

pytestmark = pytest.mark.system


@pytest.fixture
def thread() -> Iterator[ModelThread]:
    thread = ModelThread(limit=2)
    thread.start()
    yield thread
    thread.stop()


def soon() -> float:
    return time.monotonic() + 30


async def test_jobs_run_one_at_a_time_and_off_the_loop(thread: ModelThread) -> None:
    done = await asyncio.gather(
        *(thread.run(threading.get_ident, deadline=soon()) for _ in range(2))
    )
    assert len({each.value for each in done}) == 1
    assert done[0].value != threading.get_ident()


class Gate:
    """A job that says when it runs and waits to be let through."""

    def __init__(self) -> None:
        self._running = threading.Event()
        self._open = threading.Event()

    def job(self) -> bool:
        self._running.set()
        return self._open.wait(timeout=30)

    async def until_running(self) -> None:
        await asyncio.to_thread(self._running.wait)

    def open(self) -> None:
        self._open.set()


async def test_a_brief_job_runs_on_the_loop_unless_the_thread_is_busy(thread: ModelThread) -> None:
    here = await thread.run(threading.get_ident, deadline=soon(), is_brief=True)
    assert (here.value, here.spent.queue_s) == (threading.get_ident(), 0.0)
    gate = Gate()
    slow = asyncio.create_task(thread.run(gate.job, deadline=soon()))
    await gate.until_running()
    brief = asyncio.create_task(thread.run(threading.get_ident, deadline=soon(), is_brief=True))
    await asyncio.sleep(0.05)
    assert not brief.done()
    gate.open()
    assert (await brief).value != threading.get_ident()
    await slow
    again = await thread.run(threading.get_ident, deadline=soon(), is_brief=True)
    assert again.value == threading.get_ident()


async def test_a_brief_job_that_nobody_waited_for_leaves_the_thread_idle(
    thread: ModelThread,
) -> None:
    gate = Gate()
    with pytest.raises(OutOfTimeError):
        await thread.run(gate.job, deadline=time.monotonic() + 0.05)
    with pytest.raises(OutOfTimeError):
        await thread.run(bool, deadline=time.monotonic() + 0.05)
    gate.open()
    await thread.run(bool, deadline=soon())
    here = await thread.run(threading.get_ident, deadline=soon(), is_brief=True)
    assert here.value == threading.get_ident()


async def test_a_brief_job_that_raises_fails_like_any_other(thread: ModelThread) -> None:
    with pytest.raises(JobFailedError, match="division"):
        await thread.run(lambda: 1 // 0, deadline=soon(), is_brief=True)


async def test_a_full_queue_refuses_at_once(thread: ModelThread) -> None:
    gate = Gate()
    accepted = [asyncio.create_task(thread.run(gate.job, deadline=soon()))]
    await gate.until_running()
    accepted += [asyncio.create_task(thread.run(bool, deadline=soon())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await thread.run(bool, deadline=soon())
    gate.open()
    assert [done.value for done in await asyncio.gather(*accepted)] == [True, False, False]


async def test_the_deadline_ends_the_wait_and_says_where_the_time_went(thread: ModelThread) -> None:
    gate = Gate()
    with pytest.raises(OutOfTimeError) as caught:
        await thread.run(gate.job, deadline=time.monotonic() + 0.5)
    gate.open()
    queue_s, run_s = caught.value.spent
    assert 0.4 < queue_s + run_s < 10
    assert run_s > 0


async def test_a_job_whose_deadline_passed_in_the_queue_never_runs(thread: ModelThread) -> None:
    gate, ran = Gate(), list[int]()
    slow = asyncio.create_task(thread.run(gate.job, deadline=soon()))
    await gate.until_running()
    with pytest.raises(OutOfTimeError) as caught:
        await thread.run(lambda: ran.append(1), deadline=time.monotonic() + 0.05)
    assert caught.value.spent.run_s == 0
    gate.open()
    await slow
    assert (await thread.run(lambda: list(ran), deadline=soon())).value == []


async def test_a_deadline_in_the_past_is_not_queued(thread: ModelThread) -> None:
    with pytest.raises(OutOfTimeError):
        await thread.run(int, deadline=time.monotonic() - 1)
    assert thread.num_waiting == 0


async def test_a_job_that_raises_is_logged_and_the_thread_lives_on(
    thread: ModelThread, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JobFailedError, match="division"):
        await thread.run(lambda: 1 // 0, deadline=soon())
    assert "ZeroDivisionError" in caplog.text
    assert (await thread.run(lambda: 7, deadline=soon())).value == 7
