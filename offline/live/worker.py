"""Worker for thinking on demand: requested users get a record in the workers' layer in seconds.

Workers carry out erasures too.

A request is acknowledged after its user's record is in the newest live layer, on disk and in the
store. This layer is a delta that the first worker opens and all workers share. When a night goes
live on top of it, or a rollback removes it, the next request opens another.
"""

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from models.errors import InvalidInput, ManifestConflict, StoreUnavailable
from models.intake.users_table import Attributes
from models.release.release import Release
from models.store.contract import NightStore, Request
from models.store.events import check_user_id
from models.store.manifest import Layer, Manifest
from offline.disk.generation import Generation, open_generation
from offline.disk.outcome import Outcome
from offline.disk.shards import ShardRow, write_summary
from offline.live.activate import activate, add_rows
from offline.live.erasure import carry_out_erasures
from offline.plan.plan_file import to_history
from offline.settings import MICRO_BATCH
from offline.think.micro_batch import Think, think_about
from offline.think.night_model import NightModel, add_findings
from offline.think.wished_thoughts import KnownWishes, WishedHistory, obey

logger = logging.getLogger(__name__)

T = TypeVar("T")
_WAIT_MS = 1000  # for a request; a stop is noticed after at most this time
_IDLE_MS = 60_000  # another worker claims a request that a worker has held for this long
_MAX_TRIES = 3
_RETRY_S = 1.0
_BEAT_S = 5.0  # between two heartbeats


class Served(NamedTuple):
    """Counts of a worker."""

    requests: int  # settled
    users: int  # with a new live record


@dataclass(frozen=True)
class Worker:
    """Serves requests for thinking, and erasures."""

    store: NightStore
    release: Release
    out_dir: Path
    think: Think
    runner: asyncio.Runner
    night: NightModel | None = None  # adds to records what it finds; None: nothing
    attributes: Mapping[str, Attributes] = field(default_factory=dict)  # of users, for prompts
    wishes: KnownWishes = field(default_factory=KnownWishes)
    name: str = f"{socket.gethostname()}-{os.getpid()}"  # of this consumer; unique in the group
    idle_ms: int = _IDLE_MS
    wait_ms: int = _WAIT_MS

    def run(
        self, is_over: Callable[[], bool], look: "Callable[[Worker], Worker] | None" = None
    ) -> Served:
        """Serve until `is_over()`; wait while the store is away.

        look: returns the worker of the next requests, asked before each micro-batch.
        """
        total, worker, beat_at = Served(0, 0), self, -math.inf
        while not is_over():
            worker = look(worker) if look is not None else worker
            try:
                if time.monotonic() - beat_at >= _BEAT_S:
                    self.runner.run(self.store.beat(self.name))
                    beat_at = time.monotonic()
                served = worker.serve_once()
            except (StoreUnavailable, ManifestConflict) as exc:
                logger.warning("%s", exc)
                time.sleep(_RETRY_S)
                continue
            total = Served(total.requests + served.requests, total.users + served.users)
        with suppress(StoreUnavailable):
            self.runner.run(self.store.beat(self.name, is_leaving=True))
        return total

    def serve_once(self) -> Served:
        """Carry out the waiting erasures, then serve one micro-batch of requests, if there are any.

        Raises StoreUnavailable.
        """
        self.runner.run(
            carry_out_erasures(self.store, self.out_dir, worker=self.name, idle_ms=self.idle_ms)
        )
        requests = self.runner.run(
            self.store.take_requests(
                self.name, count=MICRO_BATCH, wait_ms=self.wait_ms, idle_ms=self.idle_ms
            )
        )
        if not requests:
            return Served(0, 0)
        now_s = int(
            time.time()
        )  # before the histories are read, so that a user erased later is not written
        users = self.runner.run(self._histories(requests))
        rows = self.runner.run(self._beating(lambda: self._think_about(users, now_s)))
        if rows:
            self.runner.run(self._write(rows))
        self.runner.run(self.store.settle_requests(requests))
        return Served(len(requests), len(rows))

    async def _beating(self, work: Callable[[], T]) -> T:
        """Run `work` on a thread of its own, with heartbeats while it takes long."""
        running = asyncio.create_task(asyncio.to_thread(work))
        while not running.done():
            await asyncio.wait([running], timeout=_BEAT_S)
            if not running.done():
                with suppress(StoreUnavailable):
                    await self.store.beat(self.name)
        return running.result()

    async def _histories(self, requests: Sequence[Request]) -> list[WishedHistory]:
        """Read the histories of sound requests, with what the users wish.

        The last instruction of a user counts, after the turns that the store keeps.
        """
        admitted = {request.user_id: request for request in requests if _admit(request)}
        events = await self.store.read_histories(list(admitted))
        found = []
        for user_id, request in admitted.items():
            history = to_history(self.release, user_id, events[user_id])
            if history is None:
                continue
            about = tuple(sorted(self.attributes.get(user_id, {}).items()))
            history = replace(history, attributes=about)
            turns = await self.store.read_wish(user_id) if request.instruction else ()
            found.append(
                self.wishes.read(self.release.catalog, history, request.instruction, turns)
            )
        return found

    def _think_about(self, wished: Sequence[WishedHistory], now_s: int) -> list[ShardRow]:
        """Think about users. A failed user gets no row; the next night tries again."""
        users = [each.history for each in wished]
        thoughts = think_about(users, self.think, Outcome()) if users else []
        thoughts = obey(self.release.catalog, wished, thoughts)
        if self.night is not None:
            thoughts = add_findings(self.night.of(self.release), users, thoughts)
        return [ShardRow(now_s, each) for each in thoughts if each.prefixes]

    async def _write(self, rows: Sequence[ShardRow]) -> None:
        """Write rows to the workers' layer; again if it was not the newest any more."""
        while True:
            layer = await open_layer(self.store, self.release, self.out_dir)
            await add_rows(
                *(layer, self.store, iter(rows), set()),
                fingerprint=self.release.space.fingerprint,
            )
            if is_newest(await self.store.read_manifest(), layer.number):
                return


async def open_layer(store: NightStore, release: Release, out_dir: Path) -> Generation:
    """Return the workers' layer if it is the newest live one; otherwise activate a new one."""
    held = await store.read_manifest()
    if held is not None and is_newest(held, held.layers[0].generation):
        newest = _workers_layer(out_dir, held.layers[0])
        if newest is not None and held.fingerprint == release.space.fingerprint:
            return newest
    now_ms = time.time_ns() // 1_000_000
    generation = _begin_layer(release, out_dir, held, now_ms=now_ms)
    fingerprint = release.space.fingerprint
    await activate(generation, store, fingerprint=fingerprint, user_ids=())
    return generation


def is_newest(held: Manifest | None, number: int) -> bool:
    """Return True if the generation is the newest layer for all users, the canary's included."""
    if held is None or held.layers[0].generation != number:
        return False
    return held.canary is None or held.canary.layers[0].generation == number


def _begin_layer(
    release: Release, out_dir: Path, held: Manifest | None, *, now_ms: int
) -> Generation:
    """Create an empty generation on disk, for rows to be added. Raises InvalidInput."""
    if held is not None and held.fingerprint != release.space.fingerprint:
        raise InvalidInput(
            f"{release.name}: its SID space is not the live one; run a night over all users first"
        )
    newest = max(held.generations) if held is not None else 0
    number = max(now_ms, newest + 1)
    folder = out_dir / str(number)
    folder.mkdir(parents=True)
    summary = {
        "generation": number,
        "created_at": now_ms // 1000,
        "layer": "base" if held is None else "delta",
        "release": f"{release.name}@{release.version}",
        "on_demand": True,
    }
    write_summary(folder, summary)
    return open_generation(folder)


def _workers_layer(out_dir: Path, layer: Layer) -> Generation | None:
    try:
        generation = open_generation(out_dir / str(layer.generation))
    except InvalidInput:
        return None
    return generation if generation.is_on_demand else None


def _admit(request: Request) -> bool:
    """Return False for a request without a valid user, or with too many tries.

    Such a request may have stopped workers before.
    """
    if request.num_tries > _MAX_TRIES:
        logger.error("a request is given up after %d tries", request.num_tries - 1)
        return False
    try:
        check_user_id(request.user_id)
    except InvalidInput:
        return False
    return True
