"""A service follows a live folder: real processes, a real store, deltas and bases under load."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from models.release.delta import Delta
from models.release.live import LiveFolder, LiveRelease, advance, load_live
from models.store.model_pointer import LiveVersion, ModelCanary, ModelPointer
from models.store.redis_store import RedisStore
from service.recommend.engine import Engine, load_engine
from service.reload import engine_at
from service.settings import ServiceSettings
from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    item_ids,
    read_metric,
    some_prefixes,
    toy_release_dir,
)
from tests.fakes.toy_live import counts_delta, header, pointer_to, weights_delta
from tests.service.test_reload import (
    Load,
    changed_catalog,
    half_on,
    put_release,
    releases_by_arm,
)
from training.learn.canary import main as canary_command

# Processes start slowly on a machine that is busy with other work.
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
USERS = tuple(f"user-{at}" for at in range(5))
NUM_ITEMS = 2  # of each user's history
ENVIRON = {
    "THINKAHEAD_REQUEST_BUDGET_MS": "10000",
    "THINKAHEAD_REDIS_TIMEOUT_MS": "5000",
    "THINKAHEAD_MANIFEST_POLL_MS": "20",
}


class Publisher:
    """Publishes to a live folder and moves the pointer, as a learner does."""

    def __init__(self, path: Path, url: str | None = None) -> None:
        """url: of the store that holds the pointer too; None for the folder alone."""
        self.folder = LiveFolder(path)
        self.versions: dict[str, LiveVersion] = {}  # by label
        self.pointer: ModelPointer | None = None
        self._url = url
        self.live = self.new_base(toy_release_dir())
        self.point()

    def new_base(self, directory: Path) -> LiveRelease:
        self.live = LiveRelease.of(self.folder.publish_base(directory))
        return self.live

    def add(self, kind: str) -> LiveRelease:
        """Add a delta: `c` of counts, `w` of weights."""
        seed = self.live.version.deltas
        neighbours = self.live.neighbours
        assert neighbours is not None
        delta = Delta(
            header(self.live.version, watermark=f"{time.time_ns() // 1_000_000}-0"),
            counts_delta(neighbours, seed=seed, num_rows=50) if kind == "c" else None,
            weights_delta(self.live, seed=seed) if kind == "w" else None,
        )
        self.live = advance(self.live, self.folder, self.folder.add_delta(delta)).live
        return self.live

    def point(self, version: LiveVersion | None = None, **canary: Any) -> ModelPointer:
        """Move the pointer to a version, the newest by default."""
        pointer = self.next_pointer(version or self.live.version, **canary)
        self.folder.move(pointer)
        self.swap(pointer)
        return pointer

    def next_pointer(self, version: LiveVersion, **canary: Any) -> ModelPointer:
        self.versions[self.label(version)] = version
        changes = {
            "written_ms": time.time_ns() // 1_000_000,
            "canary": ModelCanary(**canary) if canary else None,
        }
        epoch = self.pointer.epoch + 1 if self.pointer is not None else 1
        return pointer_to(version, epoch=epoch).model_copy(update=changes)

    def swap(self, pointer: ModelPointer) -> None:
        """Move the pointer in the store alone."""
        held, self.pointer = self.pointer, pointer
        if self._url is None:
            return
        url = self._url

        async def swap() -> None:
            store = RedisStore(url, timeout_ms=5000)
            try:
                await store.swap_model(held, pointer)
            finally:
                await store.close()

        asyncio.run(swap())

    @staticmethod
    def label(version: LiveVersion) -> str:
        return f"toy@{version.base}" + (f"+{version.deltas}" if version.deltas else "")


@contextmanager
def following(
    publisher: Publisher, server: RedisServer, *arguments: str
) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    with (
        ServiceProcess(
            *("--live", str(publisher.folder.path), "--redis", server.url, *arguments),
            environ=ENVIRON,
        ) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        yield service, client


REFUSED = 'thinkahead_model_swaps_total{change="refused",model="own"}'


class World(NamedTuple):
    """A service that follows a live folder through a store."""

    publisher: Publisher
    service: ServiceProcess
    client: httpx.Client


def furnish_server(server: RedisServer) -> None:
    """Give each user a history, and a record that leads to a few prefixes."""
    asyncio.run(furnish_redis(server.url, USERS, prefixes=some_prefixes(3), num_items=NUM_ITEMS))


@pytest.fixture(scope="module")
def world(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for all tests of this module; each begins with the version that it finds."""
    furnish_server(server)
    publisher = Publisher(tmp_path_factory.mktemp("follow") / "live", server.url)
    with following(publisher, server) as (service, client):
        yield World(publisher, service, client)


@pytest.fixture
def new_release(tmp_path: Path) -> Path:
    """A release with another catalog, of another name for each test."""
    catalog = changed_catalog(added=f"new-{tmp_path.name}", withdrawn="item-0")
    return put_release(tmp_path / "new", catalog).directory


def until_served(client: httpx.Client, label: str, user: str = USERS[0]) -> float:
    """Ask until the release answers; return the seconds that it took."""
    began_at = time.monotonic()
    while client.get(f"/recommend/{user}").json()["release"] != label:
        assert time.monotonic() < began_at + 60, label
    return time.monotonic() - began_at


def until_metric(client: httpx.Client, sample: str, value: float) -> None:
    deadline = time.monotonic() + 60
    while read_metric(client.get("/metrics").text, sample) != value:
        assert time.monotonic() < deadline, sample
        time.sleep(0.02)


class Expected:
    """Items of the personal answer of a version, from an engine of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._settings = ServiceSettings(live_dir=publisher.folder.path)
        self._engines: list[Engine] = [load_engine(toy_release_dir())]
        self._items: dict[str, list[str]] = {}

    def items(self, label: str) -> list[str]:
        if label not in self._items:
            version = self._publisher.versions[label]
            engine, _ = engine_at(self._settings, self._engines, self._publisher.folder, version)
            self._engines.append(engine)
            rows = engine.catalog.rows(item_ids(NUM_ITEMS))
            found = engine.finisher.finish(
                engine.encode(rows),
                engine.finisher.candidates(some_prefixes(3)),
                k=10,
                exclude=set(rows),
            )
            self._items[label] = [engine.catalog.item_ids[each.row] for each in found]
        return self._items[label]


def assert_each_is_of_one_release(load: Load, publisher: Publisher) -> set[str]:
    """Every answer is 200 and has the items of the release that it names; returns these."""
    assert {status for status, _ in load.answers} == {200}
    expected, labels = Expected(publisher), set()
    for _, answer in load.answers:
        labels.add(answer["release"])
        items = [each["item_id"] for each in answer["items"] if each["source"] == "personal"][:10]
        assert items == expected.items(answer["release"]), answer
    return labels


def test_two_hundred_versions_under_load(world: World, new_release: Path) -> None:
    """Counts change by every delta, weights by some, the catalog at the end and back."""
    publisher, _, client = world
    first = publisher.live.version
    with Load(str(client.base_url)) as load:
        for number in range(200):
            live = publisher.add("w" if number % 50 == 49 else "c")
            publisher.swap(publisher.next_pointer(live.version))
            if number % 20 == 19:
                until_served(client, publisher.live.label)
        for version in (publisher.new_base(new_release).version, first):
            publisher.point(version)
            until_served(client, publisher.label(version))
            load.wait_for(5)
    publisher.live = load_live(publisher.folder, first)
    assert len(assert_each_is_of_one_release(load, publisher)) > 20


def test_what_cannot_be_followed_leaves_the_version_before_it(world: World) -> None:
    """A damaged delta, one of another base; then a sound one takes over. One line for each."""
    publisher, service, client = world
    num_refused = read_metric(client.get("/metrics").text, REFUSED)
    before = publisher.add("c")
    publisher.point()
    until_served(client, before.label)
    file = publisher.folder.delta_file(before.version.base, before.version.deltas + 1)
    version = publisher.add("w").version
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    publisher.swap(publisher.next_pointer(version))
    until_metric(client, "thinkahead_model_refused", 1)
    assert client.get("/health/ready").json()["release"] == before.label
    publisher.swap(publisher.next_pointer(version._replace(base="0" * 12)))
    until_metric(client, REFUSED, num_refused + 2)
    assert client.get(f"/recommend/{USERS[0]}").json()["release"] == before.label
    file.write_bytes(sound)
    publisher.point()
    until_served(client, publisher.live.label)
    assert read_metric(client.get("/metrics").text, "thinkahead_model_refused") == 0
    refused: list[str] = []
    while len(refused) < 2:
        assert service.process.stderr is not None
        line = service.process.stderr.readline()
        refused += [line] if "model pointer refused" in line else []
    assert all(f"{before.label} stays: " in line for line in refused)
    assert f"{file.name}: SHA-256" in refused[0]
    assert f"{'0' * 12}" in refused[1]


def test_fewer_deltas_and_an_older_base_roll_back(world: World, new_release: Path) -> None:
    publisher, _, client = world
    first = publisher.live.version
    for _ in range(3):
        publisher.add("c")
    publisher.point()
    until_served(client, publisher.live.label)
    back = publisher.folder.version(first.base, first.deltas + 1)
    for version in (back, publisher.new_base(new_release).version, back, first):
        publisher.point(version)
        until_served(client, publisher.label(version))
    publisher.live = load_live(publisher.folder, first)


def test_without_the_store_the_last_pointer_stays(own_server: RedisServer, tmp_path: Path) -> None:
    """It is not that of the folder, which is older."""
    furnish_server(own_server)
    publisher = Publisher(tmp_path / "live", own_server.url)
    with following(publisher, own_server) as (_, client):
        publisher.swap(publisher.next_pointer(publisher.add("c").version))
        until_served(client, publisher.live.label)
        own_server.kill()
        until_metric(client, "thinkahead_breaker_open", 1)
        answer = client.get(f"/recommend/{USERS[0]}")
        assert (answer.status_code, answer.json()["release"]) == (200, publisher.live.label)
        own_server.start()
        until_metric(client, "thinkahead_breaker_open", 0)
        assert client.get(f"/recommend/{USERS[0]}").json()["release"] == publisher.live.label


def test_the_canary_takes_its_share_and_takes_over(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher, _, client = world
    main, new = publisher.live, publisher.add("w")
    canary = {**new.version._asdict(), "percent": 30}
    users = [f"guest-{at}" for at in range(60)]

    def served() -> dict[str, str]:
        return {user: client.get(f"/recommend/{user}").json()["release"] for user in users}

    pointer = publisher.point(main.version, **canary)
    until_metric(client, "thinkahead_model_epoch", pointer.epoch)
    taken = {user for user in users if pointer.for_user(user) == new.version}
    assert 5 < len(taken) < 40
    assert served() == {user: (new if user in taken else main).label for user in users}
    text = client.get("/metrics").text
    sample = 'thinkahead_model_answers_total{model="canary",source="global"}'
    assert read_metric(text, sample) == len(taken)
    info = f'thinkahead_model_info{{model="canary",release="toy@{new.version.base}"}}'
    assert read_metric(text, info) == 1
    compare = ["--live", str(publisher.folder.path), "--compare", str(client.base_url)]
    assert canary_command(compare) == 78
    assert "no event has judged an answer of model 'own' yet" in capsys.readouterr().err
    for at, user in enumerate(users):  # every second user takes the first item of the answer
        first = client.get(f"/recommend/{user}?n=1").json()["items"][0]["item_id"]
        taken_item = first if at % 2 else item_ids(1)[0]
        assert client.post(f"/events/{user}", json={"item_id": taken_item}).status_code == 200
    text = client.get("/metrics").text
    for model, those in (("canary", taken), ("own", set(users) - taken)):
        num_hits = sum(user in those for user in users[1::2])
        assert read_metric(text, f'thinkahead_model_events_total{{model="{model}"}}') == len(those)
        assert read_metric(text, f'thinkahead_model_hits_total{{model="{model}"}}') == num_hits
    assert canary_command(compare) == 0
    said = capsys.readouterr().out
    assert f" of {len(taken)}, others " in said
    assert f" of {60 - len(taken)}: " in said
    until_metric(client, "thinkahead_model_epoch", publisher.point(new.version).epoch)
    assert canary_command(compare) == 78
    assert "no canary serves" in capsys.readouterr().err
    assert set(served().values()) == {new.label}


def test_an_arm_follows_its_own_live_folder(own_server: RedisServer, tmp_path: Path) -> None:
    publisher, of_arm = Publisher(tmp_path / "live"), Publisher(tmp_path / "of-arm")
    config = str(half_on(of_arm.folder.path))
    with following(publisher, own_server, "--config", config) as (_, client):
        main = publisher.live.label
        assert releases_by_arm(client) == {"new": {main}, "old": {main}}
        of_arm.add("c")
        of_arm.add("w")
        of_arm.point()
        until_metric(client, 'thinkahead_model_swaps_total{change="weights",model="arm"}', 1)
        assert releases_by_arm(client) == {"new": {of_arm.live.label}, "old": {main}}


def test_pages_go_on_over_deltas_and_end_with_the_base(world: World, new_release: Path) -> None:
    publisher, _, client = world
    first = client.get(f"/recommend/{USERS[0]}?n=20").json()
    publisher.add("c")
    publisher.add("w")
    publisher.point()
    until_served(client, publisher.live.label)
    second = client.get(f"/recommend/{USERS[0]}?n=20&cursor={first['next_cursor']}").json()
    assert second["release"] == publisher.live.label
    shown = [item["item_id"] for page in (first, second) for item in page["items"]]
    assert len(set(shown)) == 40
    publisher.new_base(new_release)
    publisher.point()
    until_served(client, publisher.live.label)
    gone = client.get(f"/v1/recommend/{USERS[0]}?n=20&cursor={second['next_cursor']}")
    assert gone.status_code == 410
