"""A store with the histories of the cases, a service and a worker, as a user starts them."""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.common.leave_one_out import Case
from bench.common.service_process import ModuleProcess, ServiceProcess, StepFailedError
from bench.load.population import go_live
from models.release.release import Release
from models.store.events import Event
from models.store.redis_store import RedisStore

_TIMEOUT_MS = 30_000
_THINKS_S = 1200.0  # for all users together, on a busy machine
_READY_S = 600.0  # a busy machine starts slowly
_POLL_S = 0.2
_BEGAN_S = 1_400_000_000  # time of the first event of each history


@dataclass(frozen=True)
class WishedSystem:
    """Running processes, and their store."""

    redis_url: str
    release: Path
    folder: Path
    service: ServiceProcess
    client: httpx.Client

    def post(self, user_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a thought, as a caller does."""
        answer = self.client.post(f"/v1/users/{user_id}/think", json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def recommend(self, user_id: str, mode: str, num: int) -> list[str]:
        """Return the item ids of an answer."""
        answer = self.client.get(f"/recommend/{user_id}", params={"n": num, "mode": mode})
        answer.raise_for_status()
        return [item["item_id"] for item in answer.json()["items"]]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a worker inside the block."""
        arguments = ["worker", "--release", str(self.release), "--redis", self.redis_url]
        arguments += ["--out", str(self.folder / "generations")]
        with ModuleProcess("offline", arguments, log=self.folder / "worker.log") as worker:
            yield
            self._await_thoughts(worker)

    def _await_thoughts(self, worker: ModuleProcess) -> None:
        """Wait until the service has what the worker thought. Raises StepFailedError if it ends."""
        deadline = time.monotonic() + _THINKS_S
        while time.monotonic() < deadline and worker.wait(0) is None:
            num_waiting, epoch = asyncio.run(self._look())
            if not num_waiting and self._served_epoch() >= epoch:
                return
            time.sleep(_POLL_S)
        raise StepFailedError(f"the worker did not think in time: {worker.last_line()}")

    async def _look(self) -> tuple[int, int]:
        """Return the number of waiting requests, and the epoch that is live in the store."""
        store = RedisStore(self.redis_url, _TIMEOUT_MS)
        try:
            num_waiting, manifest = await store.count_requests(), await store.read_manifest()
            return num_waiting, manifest.epoch if manifest is not None else 0
        finally:
            await store.close()

    def _served_epoch(self) -> float:
        """Return the epoch that the service has in use."""
        text = self.client.get("/metrics").raise_for_status().text
        found = re.search(r"^thinkahead_manifest_epoch (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def open_system(
    folder: Path,
    redis_url: str,
    release: Release,
    cases: Sequence[Case],
    *,
    strength: float | None,
    has_worker: bool,
) -> Iterator[WishedSystem]:
    """Write the histories, start the service, and wait until it is ready.

    Args:
        strength: setting of the service; None for its default.
        has_worker: False writes records of the online model's own prefixes.
    """
    item_ids = release.catalog.item_ids
    histories = {case.history.user_id: [item_ids[row] for row in case.seen] for case in cases}
    asyncio.run(_write_histories(redis_url, histories))
    if not has_worker:
        asyncio.run(go_live(redis_url, release, histories))
    environ = {
        "THINKAHEAD_RUNG_SHARE": "0",
        "THINKAHEAD_REQUEST_BUDGET_MS": "30000",
        "THINKAHEAD_REDIS_TIMEOUT_MS": "10000",
    }
    if strength is not None:
        environ["THINKAHEAD_WISH_NATS"] = str(strength)
    arguments = ["--release", str(release.directory), "--redis", redis_url]
    with ServiceProcess(arguments, log=folder / "service.log", environ=environ) as service:
        service.wait_until_ready(poll_s=1.0, timeout_s=_READY_S)
        with httpx.Client(base_url=service.url, timeout=60) as client:
            yield WishedSystem(redis_url, release.directory, folder, service, client)


async def _write_histories(redis_url: str, histories: Mapping[str, Sequence[str]]) -> None:
    store = RedisStore(redis_url, _TIMEOUT_MS)
    try:
        for user_id, items in histories.items():
            events = [Event(each, _BEGAN_S + at, f"past-{at}") for at, each in enumerate(items)]
            await store.append_events(user_id, events)
    finally:
        await store.close()
