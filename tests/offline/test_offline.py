"""The offline tier: import, plan, a night with what goes wrong in it, the command line."""

import asyncio
import io
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from models.catalog.catalog import Catalog
from models.catalog.dataset import Interaction
from models.catalog.sid import SidSpace
from models.errors import (
    InvalidInput,
    InvalidRecord,
    InvalidRelease,
    ManifestConflict,
    StoreUnavailable,
)
from models.reasoner.beam import Frontier
from models.reasoner.think import PathPrefix, UserHistory, UserThoughts
from models.release.release import Release
from models.store.embedded import attach
from models.store.events import Event
from models.store.manifest import Manifest
from models.store.redis_store import RedisStore
from offline.commands.cli import main
from offline.disk.outcome import Outcome
from offline.disk.shards import read_rows
from offline.live.status import read_status, render_status
from offline.plan.due import choose_users, micro_batches
from offline.plan.importer import ImportCounts, import_dataset, to_events
from offline.plan.plan_file import next_layer, to_history
from offline.progress import make_progress
from offline.refresh import load_think, refresh
from offline.settings import RefreshSettings
from offline.think.micro_batch import (
    Think,
    bind_think,
    check_thoughts,
    think_about,
)
from tests.fakes.memory_store import MemoryStore
from tests.fakes.toy import toy_catalog, toy_histories, toy_release

NOW_MS = 1_700_000_000_000
NUM_USERS = 40


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    torch.set_num_threads(1)
    return toy_release(tmp_path_factory.mktemp("release") / "toy")


@pytest.fixture
def progress() -> Progress:
    return make_progress(Console(file=io.StringIO()))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", toy_catalog())
    return tmp_path / "data"


def write_data(folder: Path, catalog: Catalog, **columns: Any) -> None:
    """A data folder of 40 users over the toy catalog."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"user_id": f"user-{user:02d}", "item_id": catalog.item_ids[row], "timestamp": 9, "pos": at}
        for user, history in enumerate(toy_histories(catalog, num_users=NUM_USERS))
        for at, row in enumerate(history)
    ]
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, folder / "interactions.parquet")
    nothing = pa.array([None] * len(catalog), pa.string())
    items = {"item_id": list(catalog.item_ids), "title": nothing, "categories": nothing}
    pq.write_table(pa.table(items), folder / "items.parquet")


def think_of_own_items(catalog: Catalog) -> Think:
    """Prefixes of the items of the history itself, the last first: thoughts that can be checked."""

    def think(users: Sequence[UserHistory]) -> list[UserThoughts]:
        return [one(user) for user in users]

    def one(user: UserHistory) -> UserThoughts:
        codes = [tuple(catalog.sids[row][:2].tolist()) for row in reversed(user.rows)]
        found = [
            PathPrefix(prefix, 0, -float(rank), 1)
            for rank, prefix in enumerate(dict.fromkeys(codes))
        ]
        return UserThoughts(user.user_id, (f"about {user.user_id}",), tuple(found), 1, 10)

    return think


@dataclass
class World:
    """A store with histories, and nights over it that think fast."""

    release: Release
    out_dir: Path
    progress: Progress
    store: MemoryStore = field(default_factory=MemoryStore)
    now_ms: int = NOW_MS
    wrap: Callable[[Think], Think] = lambda think: think

    def night(self, **settings: Any) -> dict[str, Any]:
        if settings.get("num_users") or settings.get("user_ids"):
            settings["is_whole"] = False
        settings.setdefault("rethink", True)
        self.now_ms += 60_000
        with asyncio.Runner() as runner:
            return refresh(
                RefreshSettings(self.release.directory, self.out_dir, **settings),
                store=self.store,
                runner=runner,
                progress=self.progress,
                now_ms=self.now_ms,
                load=lambda release, _: self.wrap(think_of_own_items(release.catalog)),
            )

    def manifest(self) -> Manifest | None:
        return asyncio.run(self.store.read_manifest())

    def created_at(self, user_id: str) -> int | None:
        """When the user's live record was thought; None without one."""
        manifest = self.manifest()
        assert manifest is not None
        layers = [layer.generation for layer in manifest.layers]
        state = asyncio.run(self.store.read_user(user_id, layers, self.release.space))
        return state.record.created_at if state.record else None


@pytest.fixture
def world(release: Release, tmp_path: Path, progress: Progress, data_dir: Path) -> World:
    world = World(release, tmp_path / "generations", progress)
    asyncio.run(import_dataset(data_dir, world.store, progress))
    return world


# --- import


async def test_an_import_fills_the_histories_and_a_second_one_adds_nothing(
    data_dir: Path, progress: Progress
) -> None:
    store = MemoryStore()
    catalog = toy_catalog()
    histories = toy_histories(catalog, num_users=NUM_USERS)
    num_events = sum(len(history) for history in histories)
    first = await import_dataset(data_dir, store, progress)
    assert first == ImportCounts(users=NUM_USERS, events=num_events, new_events=num_events)
    second = await import_dataset(data_dir, store, progress)
    assert (second.users, second.new_events, second.is_repeat) == (NUM_USERS, 0, True)
    read = await store.read_histories(["user-07"])
    items = [event.item_id for event in read["user-07"]]
    assert items == [catalog.item_ids[row] for row in histories[7]]


async def test_an_import_offered_again_beside_later_events_adds_nothing_either(
    data_dir: Path, progress: Progress
) -> None:
    store = MemoryStore()
    await import_dataset(data_dir, store, progress)
    await store.append_events("user-07", [Event("item-3", 10_000, "click")])
    assert (await import_dataset(data_dir, store, progress, again=True)).new_events == 0


async def test_a_longer_export_adds_what_is_new(data_dir: Path, progress: Progress) -> None:
    store = MemoryStore()
    await import_dataset(data_dir, store, progress)
    table = pq.read_table(data_dir / "interactions.parquet")
    more = {"user_id": "newcomer", "item_id": "item-0", "timestamp": 5, "pos": 0}
    longer = pa.concat_tables([table, pa.Table.from_pylist([more], schema=table.schema)])
    pq.write_table(longer, data_dir / "interactions.parquet")
    assert (await import_dataset(data_dir, store, progress)).new_events == 1


async def test_a_note_that_is_not_ours_does_not_stop_an_import(
    data_dir: Path, progress: Progress
) -> None:
    class Scribbled(MemoryStore):
        async def read_import(self, digest: str) -> str | None:
            return '{"users": "many"}'

    assert (await import_dataset(data_dir, Scribbled(), progress)).new_events > 0


class FailingStore(MemoryStore):
    """Goes away after seven users of the first batch."""

    fails = True

    async def append_histories(self, histories: Mapping[str, Sequence[Event]]) -> int:
        if not self.fails:
            return await super().append_histories(histories)
        await super().append_histories(dict(list(histories.items())[:7]))
        raise StoreUnavailable("gone")


async def test_an_interrupted_import_is_finished_by_the_next(
    data_dir: Path, progress: Progress
) -> None:
    store = FailingStore()
    with pytest.raises(StoreUnavailable):
        await import_dataset(data_dir, store, progress)
    assert len(await store.user_ids()) == 7
    store.fails = False
    await import_dataset(data_dir, store, progress)
    assert len(await store.user_ids()) == NUM_USERS


def test_a_history_keeps_the_order_of_pos_where_times_contradict_it() -> None:
    history = [Interaction("a", 50, 0), Interaction("b", 20, 1), Interaction("c", 60, 2)]
    assert [(event.item_id, event.timestamp) for event in to_events(history)] == [
        ("a", 50),
        ("b", 50),
        ("c", 60),
    ]


def test_event_ids_survive_a_longer_export_and_tell_repeats_apart() -> None:
    history = [Interaction("a", 5, 3), Interaction("a", 5, 4), Interaction("b", 5, 5)]
    ids = [event.event_id for event in to_events(history)]
    longer = [Interaction("z", 1, 0), *(replace_pos(each, each.pos + 9) for each in history)]
    assert len(set(ids)) == 3
    assert [event.event_id for event in to_events(longer)][1:] == ids


def replace_pos(interaction: Interaction, pos: int) -> Interaction:
    return interaction._replace(pos=pos)


# --- plan


def chosen(known: Sequence[str], **settings: Any) -> Any:
    return choose_users(RefreshSettings(Path("r"), Path("o"), **settings), known)


def test_users_are_the_first_by_id_and_those_asked_for() -> None:
    known = ["a", "b", "c", "d"]
    assert chosen(known) == (("a", "b", "c", "d"), ())
    assert chosen(known, is_whole=False, num_users=2) == (("a", "b"), ())
    named = chosen(known, is_whole=False, num_users=1, user_ids=("d", "x", "d"))
    assert named == (("a", "d"), ("x",))


def test_a_night_with_nobody_due_is_refused() -> None:
    with pytest.raises(InvalidInput, match="offline import"):
        chosen([])
    with pytest.raises(InvalidInput, match="user 'x' has no history"):
        chosen(["a"], is_whole=False, user_ids=("x",))


def test_a_generation_follows_the_live_ones_even_if_the_clock_went_back(world: World) -> None:
    newest = world.night()["generation"]
    settings = RefreshSettings(world.release.directory, world.out_dir)
    fingerprint = world.release.space.fingerprint
    layer = next_layer(settings, held=world.manifest(), fingerprint=fingerprint, now_ms=NOW_MS)
    assert layer.generation == newest + 1


def test_items_that_the_catalog_lacks_are_not_thought_about() -> None:
    catalog = toy_catalog()
    events = [Event("gone", 1, "1"), Event(catalog.item_ids[5], 2, "2")]
    assert to_history(catalog, "ann", events) == UserHistory("ann", (5,))
    assert to_history(catalog, "ann", events[:1]) is None


# --- a night


def test_a_whole_night_makes_a_base_and_says_what_it_did(world: World) -> None:
    summary = world.night()
    manifest = world.manifest()
    assert manifest is not None
    assert (manifest.epoch, manifest.deltas) == (1, ())
    assert manifest.base.generation == summary["generation"] == NOW_MS + 60_000
    assert manifest.base.users == NUM_USERS
    assert manifest.release == f"toy@{world.release.version}"
    expected = {"users_due": NUM_USERS, "refreshed": NUM_USERS, "empty": 0, "failed": 0}
    assert summary.items() >= expected.items()
    assert (summary["layer"], summary["epoch"], summary["carried"]) == ("base", 1, 0)
    assert (summary["dropped_paths"], summary["tokens"]) == (NUM_USERS, 10 * NUM_USERS)
    stages = {"plan", "model", "think", "write", "validate"}
    stages |= {"gates", "load", "verify", "activate", "total"}
    assert summary["seconds"].keys() == stages
    folder = Path(summary["shards"])
    assert json.loads((folder / "summary.json").read_text()) == summary
    success = json.loads((folder / "_SUCCESS.json").read_text())
    assert {name: summary[name] for name in success if name != "parts"}.items() <= success.items()
    names = {"plan.json", "plan-00000.parquet", "part-00000.parquet", "part-00000.times"}
    names |= {"report.html", "metrics.prom"}
    assert {file.name for file in folder.iterdir()} == names | {"_SUCCESS.json", "summary.json"}
    assert not list(world.out_dir.glob("*.lease"))


def test_each_user_gets_their_own_prefixes_and_thoughts(world: World) -> None:
    generation = world.night()["generation"]
    catalog = world.release.catalog
    for user, history in enumerate(toy_histories(catalog, num_users=NUM_USERS)):
        user_id = f"user-{user:02d}"
        state = asyncio.run(world.store.read_user(user_id, [generation], world.release.space))
        assert state.record is not None
        own = {tuple(catalog.sids[row][:2].tolist()) for row in history}
        assert {prefix.codes for prefix in state.record.prefixes} == own
        texts = asyncio.run(world.store.read_thoughts(user_id, generation))
        assert texts == (f"about {user_id}",)


def test_some_users_become_a_delta_over_the_base(world: World) -> None:
    base = world.night()
    delta = world.night(num_users=3)
    manifest = world.manifest()
    assert manifest is not None
    assert [layer.generation for layer in manifest.layers] == [
        delta["generation"],
        base["generation"],
    ]
    assert (manifest.epoch, delta["layer"], delta["refreshed"]) == (2, "delta", 3)
    assert world.created_at("user-00") == delta["created_at"]
    assert world.created_at("user-30") == base["created_at"]


def test_some_users_are_the_base_where_there_is_none(world: World) -> None:
    assert world.night(num_users=3)["layer"] == "base"


def test_a_third_delta_takes_the_place_of_the_newest_and_carries_its_users(world: World) -> None:
    base = world.night()
    first = world.night(user_ids=("user-01", "user-02"))
    second = world.night(user_ids=("user-03", "user-04"))
    third = world.night(user_ids=("user-04", "user-05"))
    manifest = world.manifest()
    assert manifest is not None
    assert [layer.generation for layer in manifest.layers] == [
        third["generation"],
        first["generation"],
        base["generation"],
    ]
    assert (third["carried"], manifest.layers[0].users) == (1, 3)
    for user_id, thought in [
        ("user-01", first),
        ("user-03", second),
        ("user-04", third),
        ("user-05", third),
        ("user-06", base),
    ]:
        assert world.created_at(user_id) == thought["created_at"]
    world.night(user_ids=("user-06",))
    assert world.created_at("user-03") == second["created_at"]


def test_a_night_that_could_not_carry_is_refused_before_it_thinks(
    world: World, tmp_path: Path
) -> None:
    world.night()
    world.night(num_users=1)
    second = world.night(num_users=2)
    elsewhere = replace(world, out_dir=tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="expected a live layer"):
        elsewhere.night(num_users=1)
    (Path(second["shards"]) / "part-00000.parquet").write_bytes(b"junk")
    with pytest.raises(InvalidInput, match=r"part-00000\.parquet"):
        world.night(num_users=1)
    assert not list((tmp_path / "elsewhere").glob("[0-9]*"))
    world.night()


def test_a_whole_night_clears_the_deltas(world: World) -> None:
    world.night()
    world.night(num_users=1)
    newest = world.night()
    manifest = world.manifest()
    assert manifest is not None
    assert [layer.generation for layer in manifest.layers] == [newest["generation"]]


def test_another_sid_space_starts_a_new_base(world: World) -> None:
    world.night()
    held = world.manifest()
    assert held is not None
    foreign = held.model_copy(update={"fingerprint": held.fingerprint ^ 1, "epoch": 7})
    asyncio.run(world.store.swap_manifest(held, foreign))
    summary = world.night(num_users=2)
    manifest = world.manifest()
    assert manifest is not None
    assert (summary["layer"], manifest.deltas, manifest.epoch) == ("base", (), 8)
    assert manifest.fingerprint == held.fingerprint
    assert world.created_at("user-00") == summary["created_at"]


def test_a_wiped_store_still_gets_a_higher_epoch(world: World, data_dir: Path) -> None:
    world.night()
    world.night()
    world.store = MemoryStore()
    asyncio.run(import_dataset(data_dir, world.store, world.progress))
    assert world.night()["epoch"] == 3


def fail_on(*victims: str, error: type[Exception] = RuntimeError) -> Callable[[Think], Think]:
    def wrap(think: Think) -> Think:
        def thinking(users: Sequence[UserHistory]) -> list[UserThoughts]:
            if any(user.user_id in victims for user in users):
                raise error("out of\nluck")
            return think(users)

        return thinking

    return wrap


def test_a_poison_user_is_set_aside_and_the_night_goes_on(world: World) -> None:
    base = world.night()
    world.wrap = fail_on("user-03", "user-20")
    summary = world.night()
    assert (summary["refreshed"], summary["failed"]) == (NUM_USERS - 2, 2)
    assert world.created_at("user-03") is None
    assert world.created_at("user-04") == summary["created_at"] > base["created_at"]
    dead = (Path(summary["shards"]) / "failed.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["user_id"] for line in dead) == ["user-03", "user-20"]
    assert json.loads(dead[0])["reason"] == "RuntimeError: out of luck"


def test_a_poison_user_in_a_delta_keeps_the_record_of_the_base(world: World) -> None:
    base = world.night()
    world.wrap = fail_on("user-03")
    world.night(num_users=5)
    assert world.created_at("user-03") == base["created_at"]


@pytest.mark.parametrize(
    "prefix",
    [
        PathPrefix((7, 99), 0, -1.0, 1),
        PathPrefix((0,), 0, -1.0, 1),
        PathPrefix((0, 0), 300, -1.0, 1),
        PathPrefix((0, 0), 0, float("nan"), 1),
    ],
)
def test_thoughts_that_make_no_legal_record_are_refused(prefix: PathPrefix) -> None:
    thoughts = UserThoughts("ann", ("text",), (prefix,), 0, 1)
    with pytest.raises(InvalidRecord):
        check_thoughts(toy_catalog(), thoughts)


@dataclass
class FlatReasoner:
    """Thinks the same of everybody, with every code as likely. Its own batch and scorer."""

    space: SidSpace
    logprob: float
    texts: list[list[str]] = field(default_factory=list)
    num_dropped: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> Self:
        self.texts = [["a thought"] * paths for _ in prompts]
        self.num_dropped = [0 for _ in seeds]
        self.num_tokens = [paths for _ in seeds]
        return self

    def scorer(self) -> Self:
        return self

    def start(self) -> NDArray[np.float32]:
        num_paths = sum(len(texts) for texts in self.texts)
        return np.full((num_paths, self.space.sizes[0]), self.logprob, dtype=np.float32)

    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        shape = (*frontier.codes_RW.shape, self.space.sizes[1])
        return np.full(shape, self.logprob, dtype=np.float32)


@pytest.mark.parametrize(("logprob", "num_failed"), [(-1.0, 0), (math.nan, 2), (-math.inf, 2)])
def test_scores_that_are_no_numbers_fail_the_user_and_not_the_night(
    logprob: float, num_failed: int
) -> None:
    catalog = toy_catalog()
    settings = RefreshSettings(Path("r"), Path("o"))
    think = bind_think(FlatReasoner(catalog.space, logprob), catalog, settings)
    outcome = Outcome()
    found = think_about([UserHistory("ann", (1,)), UserHistory("bob", (2,))], think, outcome)
    assert (len(found), len(outcome.failed)) == (2 - num_failed, num_failed)


def test_a_reasoner_that_fails_on_everybody_stops_the_night_early() -> None:
    def broken(_users: Sequence[UserHistory]) -> list[UserThoughts]:
        raise ValueError("no weights")

    outcome = Outcome()
    first, second, *_ = micro_batches([UserHistory(f"user-{n}", (n,)) for n in range(100)], 16)
    assert think_about(first, broken, outcome) == []
    outcome.check_hope()
    assert think_about(second, broken, outcome) == []
    with pytest.raises(InvalidRelease, match="all failed, the last with ValueError: no weights"):
        outcome.check_hope()


def test_a_night_without_a_single_prefix_changes_nothing(world: World) -> None:
    world.night()
    held = world.manifest()
    world.wrap = lambda think: lambda users: [replace(each, prefixes=()) for each in think(users)]
    with pytest.raises(InvalidInput, match="no records to make live: of 40 users 40 are empty"):
        world.night()
    assert world.manifest() == held


def test_micro_batches_hold_everybody_once_with_like_lengths_together() -> None:
    users = [UserHistory(f"user-{n}", tuple(range(1 + n * 7 % 60))) for n in range(100)]
    batches = list(micro_batches(users, 16))
    assert sorted(user.user_id for batch in batches for user in batch) == sorted(
        user.user_id for user in users
    )
    lengths = [min(len(user.rows), 50) for batch in batches for user in batch]
    assert lengths == sorted(lengths)
    assert max(len(batch) for batch in batches) == 16


def test_a_job_that_was_overtaken_gives_way(world: World, data_dir: Path, tmp_path: Path) -> None:
    world.night()
    other = replace(world, out_dir=tmp_path / "other", now_ms=world.now_ms + 5)

    def overtake(think: Think) -> Think:
        def thinking(users: Sequence[UserHistory]) -> list[UserThoughts]:
            if not overtaken:
                overtaken.append(run_elsewhere(other))
            return think(users)

        return thinking

    overtaken: list[dict[str, Any]] = []
    world.wrap = overtake
    with pytest.raises(ManifestConflict):
        world.night(num_users=3)
    manifest = world.manifest()
    assert manifest is not None
    assert manifest.deltas[0].generation == overtaken[0]["generation"]


def run_elsewhere(world: World) -> dict[str, Any]:
    """A night while another one runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(world.night, num_users=2).result()


class ForgetfulStore(MemoryStore):
    """Loses one record of every layer, as a server does that evicts when full."""

    async def write_layer(self, *arguments: Any, **options: Any) -> int:
        num_written = await super().write_layer(*arguments, **options)
        del self.values[next(key for key in self.values if f":p:{arguments[0]}" in key)]
        return num_written


def test_a_layer_that_did_not_arrive_whole_is_not_activated(world: World, data_dir: Path) -> None:
    world.store = ForgetfulStore()
    asyncio.run(import_dataset(data_dir, world.store, world.progress))
    with pytest.raises(StoreUnavailable, match="39 of 40 records"):
        world.night()
    assert world.manifest() is None


def test_the_same_seed_thinks_the_same_and_another_does_not(
    release: Release, tmp_path: Path
) -> None:
    users = [
        UserHistory(f"user-{n}", tuple(rows))
        for n, rows in enumerate(toy_histories(release.catalog, num_users=8))
    ]
    settings = RefreshSettings(release.directory, tmp_path, width=4)
    think = load_think(release, settings)
    again = load_think(release, settings)(users)
    other = load_think(release, replace(settings, seed=1))(users)
    first = think(users)
    assert [each.texts for each in first] == [each.texts for each in again]
    assert [each.texts for each in first] != [each.texts for each in other]
    assert any(each.prefixes for each in first)


def test_a_reasoner_that_does_not_load_is_an_invalid_release(
    release: Release, tmp_path: Path
) -> None:
    empty = replace(release, directory=tmp_path)
    with pytest.raises(InvalidRelease, match="reasoner"):
        load_think(empty, RefreshSettings(tmp_path, tmp_path))


# --- status


def test_status_before_the_first_night_says_what_to_do(world: World) -> None:
    status = asyncio.run(read_status(world.store, now_s=0))
    assert status == {"users": NUM_USERS, "epoch": None, "layers": []}
    assert "python -m offline refresh" in render_status(status)


def test_status_lists_the_layers_with_their_age(world: World) -> None:
    base = world.night()
    delta = world.night(num_users=3)
    now_s = delta["created_at"] + 7200
    status = asyncio.run(read_status(world.store, now_s=now_s))
    assert [(layer["layer"], layer["age_s"]) for layer in status["layers"]] == [
        ("delta", 7200),
        ("base", now_s - base["created_at"]),
    ]
    text = render_status(status)
    assert "epoch 2" in text
    assert f"generation {delta['generation']}" in text
    assert "2 hours old" in text


# --- the command line, over a real server


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One embedded server, held up for the whole test."""
    monkeypatch.delenv("THINKAHEAD_REDIS_URL", raising=False)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(tmp_path / "state"))
    with attach(tmp_path / "state"):
        yield tmp_path / "state"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_import_refresh_and_status_over_a_real_server(
    state: Path, release: Release, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "import", "--data", data_dir)
    assert (code, json.loads(out)["users"]) == (0, NUM_USERS)
    code, out, err = call(
        capsys, "refresh", "--release", release.directory, "--paths", 8, "--width", 4
    )
    summary = json.loads(out)
    assert code == 0
    assert "users/s" in err
    assert summary["refreshed"] + summary["empty"] == NUM_USERS
    assert summary["refreshed"] > NUM_USERS / 2
    assert 0 < summary["prefixes_per_user"] <= 32
    assert Path(summary["shards"]).parent == state / "generations"
    rows = list(read_rows(Path(summary["shards"])))
    assert len(rows) == summary["refreshed"]
    legal = {tuple(codes) for codes in release.catalog.trie.prefixes().tolist()}
    assert all(prefix.codes in legal for row in rows for prefix in row.thoughts.prefixes)
    assert all(prefix.path < len(r.thoughts.texts) for r in rows for prefix in r.thoughts.prefixes)
    code, out, _ = call(capsys, "status", "--json")
    assert (code, json.loads(out)["layers"][0]["users"]) == (0, summary["refreshed"])


def test_the_worker_thinks_about_whom_it_was_asked_for(
    state: Path, release: Release, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "import", "--data", data_dir)
    with attach(state) as server:
        store = RedisStore(server.url, 5000)

        async def ask() -> None:
            for user in ("user-03", "user-04", "user-05"):
                await store.request_thinking(user, "something for a friend")
            await store.close()

        asyncio.run(ask())
    code, out, _ = call(
        *(capsys, "worker", "--release", release.directory, "--once", "--paths", 8, "--width", 4)
    )
    served = json.loads(out)
    assert (code, served["requests"]) == (0, 3)
    assert served["users"] > 0
    code, out, _ = call(capsys, "status", "--json")
    assert json.loads(out)["generations"][0]["layer"] == "on demand"


@pytest.mark.parametrize("engine", ["transformers", "vllm", "ray"])
def test_a_worker_without_a_reasoner_says_so_at_once(
    engine: str,
    release: Release,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It once hung: `toy/reasoner`, where there is no such folder, is a repository on the Hub to
    transformers, which asked for it again and again."""
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((release.directory / "manifest.json").read_text())
    shutil.copytree(release.directory, "toy", ignore=shutil.ignore_patterns("reasoner"))
    files = {name: at for name, at in manifest["files"].items() if "reasoner" not in name}
    Path("toy/manifest.json").write_text(json.dumps({**manifest, "files": files}))
    code, out, err = call(capsys, "worker", "--release", "toy", "--engine", engine)
    assert (code, out) == (78, "")
    assert err == "offline: toy/reasoner: no config.json, expected a reasoner\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: command"),
        (["nonsense"], "invalid choice"),
        (["import"], "--data"),
        (["import", "--data", "x", "--colour", "red"], "--colour"),
        (["refresh"], "--release"),
        (["refresh", "--release", "x", "--users", "0"], "argument --users: '0'"),
        (["refresh", "--release", "x", "--users", "some"], "'some', expected"),
        (["refresh", "--release", "x", "--paths", "65"], "1..64"),
        (["refresh", "--release", "x", "--width", "-1"], "--width"),
        (["refresh", "--release", "x", "--seed", "1.5"], "'1.5'"),
        (["status", "--redis", "http://host"], "expected redis://"),
        (["status", "--redis", "redis://host:port"], "redis://host:port"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_78(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (78, "")
    assert complaint in err
    assert err.startswith("offline: ")
    assert err.count("\n") == 1


def test_a_bad_data_folder_is_one_line_and_exit_78(
    state: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "import", "--data", tmp_path / "nowhere")
    assert (code, err.strip().splitlines()[-1].startswith("offline: ")) == (78, True)
    num_rows = pq.read_metadata(data_dir / "interactions.parquet").num_rows
    write_data(data_dir, toy_catalog(), user_id=["bad\nid"] * num_rows, pos=list(range(num_rows)))
    code, _, err = call(capsys, "import", "--data", data_dir)
    assert code == 78
    assert "control character" in err.strip().splitlines()[-1]


def test_a_bad_release_is_one_line_and_exit_78(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "refresh", "--release", tmp_path / "nowhere")
    assert (code, out) == (78, "")
    assert "manifest.json" in err.strip().splitlines()[-1]


def test_a_refresh_before_any_import_says_so(
    state: Path, release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "refresh", "--release", release.directory)
    assert code == 78
    assert "python -m offline import" in err


def test_a_store_that_is_away_is_one_line_and_exit_75(
    release: Release, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "redis://127.0.0.1:1/0"
    for arguments in (
        ["status"],
        ["import", "--data", data_dir],
        ["refresh", "--release", release.directory],
    ):
        code, out, err = call(capsys, *arguments, "--redis", away)
        assert (code, out) == (75, "")
        assert "Redis at redis://127.0.0.1:1/0" in err.strip().splitlines()[-1]


def test_an_output_folder_that_cannot_be_written_is_one_line_and_exit_75(
    state: Path,
    release: Release,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(capsys, "import", "--data", data_dir)
    (tmp_path / "file").write_text("")
    code, _, err = call(
        capsys, "refresh", "--release", release.directory, "--out", tmp_path / "file"
    )
    assert code == 75
    assert str(tmp_path / "file") in err.strip().splitlines()[-1]


def test_ctrl_c_in_the_middle_of_a_night_leaves_what_was_live(
    state: Path, release: Release, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "import", "--data", data_dir)
    call(capsys, "refresh", "--release", release.directory, "--users", 3, "--paths", 8)
    before = json.loads(call(capsys, "status", "--json")[1])
    is_done = threading.Event()

    def interrupt_the_thinking() -> None:
        while not is_done.wait(0.01):
            if len(list((state / "generations").glob("[0-9]*"))) == 2:
                is_done.wait(0.3)  # past the reading of the histories
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    watching = threading.Thread(target=interrupt_the_thinking)
    watching.start()
    code, out, err = call(
        capsys, "refresh", "--release", release.directory, "--paths", 64, "--width", 60
    )
    is_done.set()
    watching.join()
    assert (code, out) == (130, "")
    assert err.strip().splitlines()[-1].startswith("offline: interrupted")
    after = json.loads(call(capsys, "status", "--json")[1])
    assert (after["epoch"], before["epoch"]) == (1, 1)
