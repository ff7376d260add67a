"""Common start of all scenarios: a Redis with synthetic users, services on it, and load.

Knows processes and the content of the store. Knows nothing of any fault.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.chaos.faults.proxy_process import ProxyProcess
from bench.chaos.faults.redis_server import RedisServer
from bench.common.service_process import HOST, ServiceProcess
from bench.common.synthetic_users import draw_record, user_id
from bench.load.answer_checks import NUM_PREFIXES, Questioner, Truth, num_users_of, thought_about
from bench.load.http_connection import Address
from bench.load.load_stream import PATIENCE_S, LoadStream
from bench.load.open_loop import NUM_CONNECTIONS
from models.release.release import Release
from models.store.events import Event
from models.store.keys import UserRow
from models.store.manifest import Layer, Manifest, next_epoch
from models.store.redis_store import RedisStore

_TIMEOUT_MS = 10_000
_TTL_S = 24 * 3600
HISTORY = 20  # items of each user at the start
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Conditions:
    """Conditions of a run, the same for all scenarios."""

    release: Release
    folder: Path  # for stores and logs
    core: int | None  # of the service alone; None if cores cannot be chosen
    rate: int  # requests per second
    seed: int
    is_quick: bool  # as short as possible: shows that the scenarios work, figures mean nothing

    def seconds(self, whole: float, quick: float) -> float:
        return quick if self.is_quick else whole

    def times(self, whole: int, quick: int) -> int:
        return quick if self.is_quick else whole


class World:
    """One store with known content; a scenario starts services on it."""

    def __init__(
        self, conditions: Conditions, name: str, redis_url: str, *, history: int = HISTORY
    ) -> None:
        """Draw the histories.

        Args:
            name: of the folder below `conditions.folder`.
            history: items of each user at the start.
        """
        self.conditions = conditions
        self.folder = conditions.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.redis_url = redis_url
        self.truth = Truth(conditions.release, {}, draw_histories(conditions, history))
        self._num_started = 0

    def new_generation(self) -> int:
        """Return the number of a new generation; each user gets other prefixes than before."""
        time.sleep(0.002)  # numbers are milliseconds
        generation = time.time_ns() // 1_000_000
        self.truth.shifts[generation] = len(self.truth.shifts) * self.truth.num_users // 2
        return generation

    def fill(self) -> int:
        """Write histories and a live layer with a record per user; return its generation."""
        generation = self.new_generation()
        asyncio.run(self._write(generation))
        return generation

    @contextmanager
    def service(
        self, *, redis_url: str | None = None, environ: Mapping[str, str] | None = None
    ) -> Iterator[ServiceProcess]:
        """Start a service and wait until it is ready.

        Args:
            redis_url: another URL of the same store, such as a proxy's.
        """
        with self.start_service(redis_url=redis_url, environ=environ) as service:
            service.wait_until_ready()
            yield service

    def start_service(
        self, *, redis_url: str | None = None, environ: Mapping[str, str] | None = None
    ) -> ServiceProcess:
        """Prepare a service process; it starts in a `with` block, which does not wait for ready."""
        self._num_started += 1
        release = str(self.conditions.release.directory)
        words = ["--release", release, "--redis", redis_url or self.redis_url]
        log = self.folder / f"service-{self._num_started}.log"
        return ServiceProcess(words, log=log, core=self.conditions.core, environ=environ)

    def load(
        self,
        service: ServiceProcess,
        *,
        rate: float | None = None,
        event_share: float = 0.05,
        num_connections: int = NUM_CONNECTIONS,
        patience_s: float = PATIENCE_S,
        settle_s: float = 0.0,
    ) -> LoadStream:
        """Prepare a load on a service; it starts in a `with` block. `rate`: requests per second."""
        seed = self.conditions.seed
        return LoadStream(
            Address(HOST, service.port),
            Questioner(self.truth, event_share=event_share, seed=seed),
            rate=self.conditions.rate if rate is None else rate,
            num_connections=num_connections,
            patience_s=patience_s,
            settle_s=settle_s,
            seed=seed,
        )

    async def _write(self, generation: int) -> None:
        store = RedisStore(self.redis_url, _TIMEOUT_MS)
        try:
            await store.append_histories(
                {
                    user_id(user): [Event(item, 1 + at, f"{at}") for at, item in enumerate(items)]
                    for user, items in enumerate(self.truth.histories)
                },
                is_logged=False,
            )
            await store.write_layer(generation, self._rows(generation), _TTL_S)
            await self._activate(store, generation)
        finally:
            await store.close()

    def _rows(self, generation: int) -> Iterator[UserRow]:
        for user, start in enumerate(self.truth.starts(generation)):
            record = draw_record(
                self.truth.release, generation=generation, num_prefixes=NUM_PREFIXES, start=start
            )
            yield UserRow(user_id(user), record, (thought_about(user),))

    async def _activate(self, store: RedisStore, generation: int) -> None:
        release, held = self.truth.release, await store.read_manifest()
        layer = Layer(
            generation=generation, created_at=generation // 1000, users=self.truth.num_users
        )
        manifest = Manifest(
            epoch=next_epoch(held, seen=0),
            fingerprint=release.space.fingerprint,
            base=layer,
            release=f"{release.name}@{release.version}",
        )
        await store.swap_manifest(held, manifest)


def draw_histories(conditions: Conditions, size: int) -> Sequence[Sequence[str]]:
    """Draw random histories without repeated items, oldest first."""
    rng = np.random.default_rng(conditions.seed)
    items = conditions.release.catalog.item_ids
    return [
        [items[row] for row in rng.choice(len(items), size=size, replace=False).tolist()]
        for _ in range(num_users_of(conditions.release))
    ]


@contextmanager
def open_world(
    conditions: Conditions, name: str, *, history: int = HISTORY
) -> Iterator[tuple[World, RedisServer]]:
    """Start a Redis server and fill it."""
    with RedisServer(conditions.folder / name / "redis") as server:
        world = World(conditions, name, server.url, history=history)
        world.fill()
        yield world, server


@contextmanager
def proxied(server: RedisServer) -> Iterator[tuple[ProxyProcess, str]]:
    """Start a fault proxy in front of the server; yield it and the URL of the store behind it."""
    with ProxyProcess(server.address) as proxy:
        yield proxy, f"redis://{HOST}:{proxy.port}/0"


def warm_up(load: LoadStream) -> None:
    """Wait until caches are filled and the first requests are answered, then forget the replies."""
    time.sleep(_WARM_UP_S)
    load.replies.clear()
