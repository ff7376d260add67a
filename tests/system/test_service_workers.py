"""Several workers of one service: real processes, real signals, one port, one page of metrics."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    read_metric,
    start_service,
    toy_release_dir,
)

pytestmark = pytest.mark.system
PATIENCE_S = 60.0
ENVIRON = {
    "THINKAHEAD_REDIS_TIMEOUT_MS": "10000",
    "THINKAHEAD_REQUEST_BUDGET_MS": "30000",
    "THINKAHEAD_ADMIN_PORT": "0",
    "THINKAHEAD_DRAIN_GRACE_MS": "200",
}


class Crew:
    """A service of two workers that both listen."""

    def __init__(self, process: ServiceProcess) -> None:
        self.process = process
        self.url = process.url
        wait_until(self.is_whole)

    def get(self, path: str) -> httpx.Response:
        """Ask over a connection of its own, so that the kernel chooses the worker."""
        return httpx.get(f"{self.url}{path}", timeout=30)

    def metric(self, sample: str) -> float:
        return read_metric(self.get("/metrics").text, sample)

    def is_whole(self) -> bool:
        page = self.get("/metrics").text
        return all(read_metric(page, f'thinkahead_worker_up{{worker="{at}"}}') for at in (0, 1))

    def pids(self) -> list[int]:
        workers = httpx.get(f"{self.process.admin_url}/health", timeout=30).json()["workers"]
        return [worker["pid"] for worker in workers]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def options(server: RedisServer) -> list[str]:
    return ["--release", str(toy_release_dir()), "--redis", server.url, "--workers", "2"]


@pytest.fixture(scope="module")
def crew(server: RedisServer) -> Iterator[Crew]:
    with ServiceProcess(*options(server), environ=ENVIRON) as process:
        yield Crew(process)


@pytest.fixture(autouse=True)
async def users(server: RedisServer) -> None:
    server.flush()
    await furnish_redis(server.url)


def test_a_list_goes_on_at_any_worker(crew: Crew) -> None:
    first = crew.get("/recommend/user?n=3").json()
    cursor = first["next_cursor"]
    pages = [crew.get(f"/recommend/user?n=3&cursor={cursor}") for _ in range(12)]
    assert {page.status_code for page in pages} == {200}
    shown = {tuple(item["item_id"] for item in page.json()["items"]) for page in pages}
    assert len(shown) == 1


def test_any_worker_shows_the_counts_of_all(crew: Crew) -> None:
    sample = 'thinkahead_requests_total{route="/health/live",source="",status="200"}'
    before = crew.metric(sample)
    for _ in range(20):
        crew.get("/health/live")
    assert {crew.metric(sample) for _ in range(6)} == {before + 20}


def test_a_killed_worker_is_replaced_and_takes_only_its_own_requests_along(crew: Crew) -> None:
    counted = (
        'thinkahead_requests_total{route="/recommend/{user_id}",source="personal",status="200"}'
    )
    crew.get("/recommend/user")
    victim, before = crew.pids()[1], crew.metric(counted)
    statuses: list[int] = []
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            try:
                statuses.append(crew.get("/recommend/user").status_code)
            except httpx.TransportError:
                statuses.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_alive(victim) or crew.pids()[1] != victim)
    assert crew.metric(counted) >= before
    wait_until(crew.is_whole)
    stopping.set()
    asking.join()
    assert statuses.count(0) <= 1  # asked one at a time
    assert set(statuses) <= {0, 200}
    assert crew.metric('thinkahead_worker_restarts_total{worker="1"}') == 1
    assert crew.metric('thinkahead_worker_restarts_total{worker="0"}') == 0


def test_a_reload_reaches_every_worker_one_after_the_other(crew: Crew) -> None:
    sample = 'thinkahead_reloads_total{outcome="unchanged"}'
    before = crew.metric(sample)
    answer = httpx.post(f"{crew.process.admin_url}/reload", timeout=30).json()
    assert answer["workers"] == {"0": "unchanged", "1": "unchanged"}
    crew.process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: crew.metric(sample) == before + 4)


def test_workers_end_with_their_supervisor(crew: Crew) -> None:
    """Keep this one last: the service is gone behind it."""
    pids = crew.pids()
    crew.process.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
    crew.process.stop()  # closes the pipe of its log


def test_sigterm_drains_all_together(server: RedisServer) -> None:
    with ServiceProcess(*options(server), environ=ENVIRON) as process:
        crew = Crew(process)
        pids = crew.pids()
        with httpx.Client(base_url=process.url, timeout=30) as client:
            assert client.get("/recommend/user").status_code == 200
            process.process.terminate()
            wait_until(lambda: client.get("/health/ready").status_code == 503)
            assert client.get("/recommend/user").status_code == 200  # within the grace
        assert process.stop() == 0
        assert not any(map(is_alive, pids))
    assert "restart" not in "".join(process.log)


def test_a_wrong_setting_is_reported_once(tmp_path: Path) -> None:
    environ = {"THINKAHEAD_STATE_DIR": str(tmp_path / "state")}
    process = start_service(
        *("--release", str(tmp_path), "--workers", "2", "--port", "0"), environ=environ
    )
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 78
    assert len(errors.splitlines()) == 1
    assert re.match(r"service: .*\n", errors)
