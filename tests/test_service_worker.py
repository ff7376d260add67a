"""The worker: one thread, a bounded queue, deadlines."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.worker import JobFailedError, OutOfTimeError, QueueFullError, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(limit=2)
    worker.start()
    yield worker
    worker.stop()


def soon() -> float:
    return time.monotonic() + 10


async def test_jobs_run_one_at_a_time_and_off_the_loop(worker: Worker) -> None:
    done = await asyncio.gather(
        *(worker.run(threading.get_ident, deadline=soon()) for _ in range(2))
    )
    assert len({each.value for each in done}) == 1
    assert done[0].value != threading.get_ident()


async def test_a_full_queue_refuses_at_once(worker: Worker) -> None:
    release = threading.Event()
    running = [asyncio.create_task(worker.run(release.wait, deadline=soon()))]
    await asyncio.sleep(0.05)
    running += [asyncio.create_task(worker.run(bool, deadline=soon())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await worker.run(int, deadline=soon())
    release.set()
    assert [each.value for each in await asyncio.gather(*running)] == [True, False, False]


async def test_the_deadline_ends_the_wait_and_says_where_the_time_went(worker: Worker) -> None:
    release = threading.Event()
    began_at = time.monotonic()
    with pytest.raises(OutOfTimeError) as caught:
        await worker.run(release.wait, deadline=began_at + 0.05)
    assert time.monotonic() - began_at < 1
    assert caught.value.spent.run_s > 0.03
    release.set()


async def test_a_job_whose_deadline_passed_in_the_queue_never_runs(worker: Worker) -> None:
    release, ran = threading.Event(), []
    slow = asyncio.create_task(worker.run(release.wait, deadline=soon()))
    await asyncio.sleep(0.05)
    with pytest.raises(OutOfTimeError) as caught:
        await worker.run(lambda: ran.append(1), deadline=time.monotonic() + 0.05)
    assert caught.value.spent.queue_s > 0.03
    release.set()
    await slow
    assert (await worker.run(lambda: list(ran), deadline=soon())).value == []


async def test_a_deadline_in_the_past_is_not_queued(worker: Worker) -> None:
    with pytest.raises(OutOfTimeError):
        await worker.run(int, deadline=time.monotonic() - 1)
    assert worker.num_waiting == 0


async def test_a_job_that_raises_is_logged_and_the_thread_lives_on(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JobFailedError, match="division"):
        await worker.run(lambda: 1 // 0, deadline=soon())
    assert "ZeroDivisionError" in caplog.text
    assert (await worker.run(lambda: 7, deadline=soon())).value == 7
