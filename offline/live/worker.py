"""Thinking on demand: users who were asked for, within seconds, into a delta layer of the workers.

The same workers carry out erasures.

A request is acknowledged only once its user's record lies in the newest live layer, on disk and in
the store. The layer is opened by the first worker that needs it and shared by all; when a night
goes on top of it, or it vanishes in a rollback, the next request opens another.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from models.errors import InvalidInput, ManifestConflict, StoreUnavailable
from models.reasoner.think import UserHistory
from models.release.release import Release
from models.store.contract import NightStore, Request
from models.store.events import check_user_id
from models.store.manifest import Layer, Manifest
from offline.disk.generation import Generation, open_generation
from offline.disk.outcome import Outcome
from offline.disk.shards import ShardRow, write_summary
from offline.live.activate import activate, add_rows
from offline.live.erasure import carry_out
from offline.plan.plan_file import to_history
from offline.settings import MICRO_BATCH
from offline.think.micro_batch import Think, think_about

logger = logging.getLogger(__name__)

_WAIT_MS = 1000  # for a request; also how soon a stop is noticed
_IDLE_MS = 60_000  # a request that a worker has had for this long is claimed from it
_MAX_TRIES = 3
_RETRY_S = 1.0


class Served(NamedTuple):
    """requests: settled. users: thought about and live."""

    requests: int
    users: int


@dataclass(frozen=True)
class Worker:
    """name: of this consumer in the group; no two may share one."""

    store: NightStore
    release: Release
    out_dir: Path
    think: Think
    runner: asyncio.Runner
    name: str = f"{socket.gethostname()}-{os.getpid()}"
    idle_ms: int = _IDLE_MS
    wait_ms: int = _WAIT_MS

    def run(self, is_over: Callable[[], bool]) -> Served:
        """Serve until `is_over`; a store that is away is waited for."""
        total = Served(0, 0)
        while not is_over():
            try:
                served = self.serve_once()
            except (StoreUnavailable, ManifestConflict) as exc:
                logger.warning("%s", exc)
                time.sleep(_RETRY_S)
                continue
            total = Served(total.requests + served.requests, total.users + served.users)
        return total

    def serve_once(self) -> Served:
        """Whoever asked to be erased, then one micro-batch of requests, if there are any.

        Raises StoreUnavailable.
        """
        self.runner.run(carry_out(self.store, self.out_dir, worker=self.name, idle_ms=self.idle_ms))
        requests = self.runner.run(
            self.store.take_requests(
                self.name, count=MICRO_BATCH, wait_ms=self.wait_ms, idle_ms=self.idle_ms
            )
        )
        if not requests:
            return Served(0, 0)
        now_s = int(
            time.time()
        )  # before the histories are read: who is erased later is not written
        rows = self._think_about(self.runner.run(self._histories(requests)), now_s)
        if rows:
            self.runner.run(self._write(rows))
        self.runner.run(self.store.settle_requests(requests))
        return Served(len(requests), len(rows))

    async def _histories(self, requests: Sequence[Request]) -> list[UserHistory]:
        """Of those that can be thought about; the last instruction of a user counts."""
        asked = {request.user_id: request for request in requests if _is_sound(request)}
        events = await self.store.read_histories(list(asked))
        found = []
        for user_id, request in asked.items():
            history = to_history(self.release.catalog, user_id, events[user_id])
            if history is not None:
                found.append(replace(history, instruction=request.instruction))
        return found

    def _think_about(self, users: Sequence[UserHistory], now_s: int) -> list[ShardRow]:
        """A user on whom it fails is settled all the same: the night tries again."""
        thoughts = think_about(users, self.think, Outcome()) if users else []
        return [ShardRow(now_s, each) for each in thoughts if each.prefixes]

    async def _write(self, rows: Sequence[ShardRow]) -> None:
        """Into the workers' layer, and again if that stopped being the newest in between."""
        while True:
            layer = await open_layer(self.store, self.release, self.out_dir)
            await add_rows(
                *(layer, self.store, iter(rows), set()),
                fingerprint=self.release.space.fingerprint,
            )
            if is_newest(await self.store.read_manifest(), layer.number):
                return


async def open_layer(store: NightStore, release: Release, out_dir: Path) -> Generation:
    """The workers' layer if it is the newest live one, else a new one made live."""
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
    """For everybody, a canary's users included."""
    if held is None or held.layers[0].generation != number:
        return False
    return held.canary is None or held.canary.layers[0].generation == number


def _begin_layer(
    release: Release, out_dir: Path, held: Manifest | None, *, now_ms: int
) -> Generation:
    """An empty generation on disk, to which rows will be added. Raises InvalidInput."""
    if held is not None and held.fingerprint != release.space.fingerprint:
        raise InvalidInput(
            f"{release.name}: not of the SID space that is live; a whole night has to come first"
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


def _is_sound(request: Request) -> bool:
    """Not what has taken workers down before, nor what no user is named by."""
    if request.num_tries > _MAX_TRIES:
        logger.error("a request is given up after %d tries", request.num_tries - 1)
        return False
    try:
        check_user_id(request.user_id)
    except InvalidInput:
        return False
    return True
