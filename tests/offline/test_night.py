"""One night over a store in memory: layers, carried users, failing users, conflicts."""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import (
    InvalidInput,
    ManifestConflict,
    StoreUnavailable,
)
from models.night.night_prefixes import NightPrefixes
from models.night.ridge import fit_night_items
from models.reasoner.think import UserHistory, UserThoughts
from models.release.searchers import load_finisher
from models.store.records import RecordedItem
from offline.plan.importer import import_dataset
from offline.think.micro_batch import (
    Think,
)
from offline.think.night_model import NightModel
from tests.fakes.file_modes import mode_of, umask
from tests.fakes.memory_store import MemoryStore
from tests.fakes.toy import toy_histories
from tests.fakes.toy_night import NOW_MS, NUM_USERS, ImportedWorld, think_of_own_items


@pytest.fixture
def world(imported_world: ImportedWorld) -> ImportedWorld:
    return imported_world


def test_a_whole_night_makes_a_base_and_says_what_it_did(world: ImportedWorld) -> None:
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
    stages = {"plan", "model", "think", "items", "write", "validate"}
    stages |= {"gates", "load", "verify", "activate", "total"}
    assert summary["seconds"].keys() == stages
    folder = Path(summary["shards"])
    assert json.loads((folder / "summary.json").read_text()) == summary
    success = json.loads((folder / "_SUCCESS.json").read_text())
    assert {name: summary[name] for name in success if name != "parts"}.items() <= success.items()
    names = {"plan.json", "plan-00000.parquet", "part-00000.parquet", "part-00000.times"}
    names |= {"report.html", "metrics.prom", "night_items.safetensors"}
    assert {file.name for file in folder.iterdir()} == names | {"_SUCCESS.json", "summary.json"}
    assert not list(world.out_dir.glob("*.lease"))


def test_files_about_users_are_private_and_reports_are_not(world: ImportedWorld) -> None:
    with umask(0o022):
        folder = Path(world.night()["shards"])
    assert mode_of(folder) == "0755"
    private = {file.name for file in folder.iterdir() if mode_of(file) == "0600"}
    assert private == {"plan-00000.parquet", "part-00000.parquet"}
    public = {file.name for file in folder.iterdir() if mode_of(file) == "0644"}
    assert public >= {"summary.json", "report.html", "metrics.prom", "_SUCCESS.json", "plan.json"}
    parts = (world.out_dir / "archive").glob("part-*.parquet")
    assert {mode_of(part) for part in parts} == {"0600"}
    assert mode_of(world.out_dir / "archive") == "0700"


def test_each_user_gets_their_own_prefixes_and_thoughts(world: ImportedWorld) -> None:
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


def test_each_user_gets_the_items_that_the_history_of_everybody_suggests(
    world: ImportedWorld,
) -> None:
    generation = world.night(num_users=7)["generation"]
    catalog = world.release.catalog
    histories = toy_histories(catalog, num_users=NUM_USERS)
    night = fit_night_items(histories, catalog)
    for user in range(7):
        items = recorded_items(world, f"user-{user:02d}", generation)
        expected = night.find_sids(histories[user], catalog)
        assert [item.codes for item in items] == [item.codes for item in expected]
        bonuses = [item.bonus for item in expected]
        assert [item.bonus for item in items] == pytest.approx(bonuses, abs=1 / 32)
        assert items


def test_a_record_holds_the_best_prefixes_of_all_sources(world: ImportedWorld) -> None:
    """The thought knows the prefixes of the history; the others come from the night's models."""
    generation = world.night(num_prefixes=8)["generation"]
    catalog, finisher = world.release.catalog, load_finisher(world.release)
    histories = toy_histories(catalog, num_users=NUM_USERS)
    chooser = NightPrefixes(finisher, fit_night_items(histories, catalog))
    num_marked = 0
    for user, history in enumerate(histories):
        user_id = f"user-{user:02d}"
        state = asyncio.run(world.store.read_user(user_id, [generation], world.release.space))
        assert state.record is not None
        (thoughts,) = think_of_own_items(catalog)([UserHistory(user_id, tuple(history))])
        expected = chooser.choose(history, thoughts.prefixes, num=8)
        found = state.record.prefixes
        assert [(one.codes, one.path) for one in found] == [
            (one.codes, one.path) for one in expected
        ]
        own = {tuple(catalog.sids[row][:2].tolist()) for row in history}
        assert all((one.path == 0) == (one.codes in own) for one in found)
        num_marked += sum(one.path == 0 for one in found)
    assert 0 < num_marked < 8 * NUM_USERS


def test_the_prefixes_of_a_wish_are_those_of_its_thoughts(world: ImportedWorld) -> None:
    world.night(num_prefixes=8)
    night = NightModel(world.out_dir, num_prefixes=8).of(world.release)
    assert night is not None
    catalog = world.release.catalog
    rows = tuple(toy_histories(catalog, num_users=1)[0])
    plain, wish = UserHistory("ann", rows), UserHistory("ann", rows, "something for the bath")
    (thoughts,) = think_of_own_items(catalog)([plain])
    assert night.add(wish, thoughts).prefixes == thoughts.prefixes
    assert len(night.add(plain, thoughts).prefixes) == 8
    silent = replace(thoughts, prefixes=())
    assert night.add(plain, silent).prefixes == ()


def test_a_delta_finds_items_with_the_model_of_the_last_base(world: ImportedWorld) -> None:
    base = world.night()["generation"]
    delta = world.night(user_ids=("user-01",), rethink=True)["generation"]
    assert not (world.out_dir / str(delta) / "night_items.safetensors").exists()
    items = [recorded_items(world, "user-01", generation) for generation in (delta, base)]
    assert items[0] == items[1] != ()


def recorded_items(world: ImportedWorld, user_id: str, generation: int) -> tuple[RecordedItem, ...]:
    state = asyncio.run(world.store.read_user(user_id, [generation], world.release.space))
    assert state.record is not None
    return state.record.items


def test_some_users_become_a_delta_over_the_base(world: ImportedWorld) -> None:
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


def test_some_users_are_the_base_where_there_is_none(world: ImportedWorld) -> None:
    assert world.night(num_users=3)["layer"] == "base"


def test_a_third_delta_takes_the_place_of_the_newest_and_carries_its_users(
    world: ImportedWorld,
) -> None:
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
    world: ImportedWorld, tmp_path: Path
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


def test_a_whole_night_clears_the_deltas(world: ImportedWorld) -> None:
    world.night()
    world.night(num_users=1)
    newest = world.night()
    manifest = world.manifest()
    assert manifest is not None
    assert [layer.generation for layer in manifest.layers] == [newest["generation"]]


def test_another_sid_space_starts_a_new_base(world: ImportedWorld) -> None:
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


def test_a_wiped_store_still_gets_a_higher_epoch(world: ImportedWorld, data_dir: Path) -> None:
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


def test_a_poison_user_is_set_aside_and_the_night_goes_on(world: ImportedWorld) -> None:
    base = world.night()
    world.wrap = fail_on("user-03", "user-20")
    summary = world.night()
    assert (summary["refreshed"], summary["failed"]) == (NUM_USERS - 2, 2)
    assert world.created_at("user-03") is None
    assert world.created_at("user-04") == summary["created_at"] > base["created_at"]
    dead = (Path(summary["shards"]) / "failed.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["user_id"] for line in dead) == ["user-03", "user-20"]
    assert json.loads(dead[0])["reason"] == "RuntimeError: out of luck"


def test_a_poison_user_in_a_delta_keeps_the_record_of_the_base(world: ImportedWorld) -> None:
    base = world.night()
    world.wrap = fail_on("user-03")
    world.night(num_users=5)
    assert world.created_at("user-03") == base["created_at"]


def test_a_night_without_a_single_prefix_changes_nothing(world: ImportedWorld) -> None:
    world.night()
    held = world.manifest()
    world.wrap = lambda think: lambda users: [replace(each, prefixes=()) for each in think(users)]
    with pytest.raises(InvalidInput, match="no records to make live: of 40 users 40 are empty"):
        world.night()
    assert world.manifest() == held


def test_a_job_that_was_overtaken_gives_way(
    world: ImportedWorld, data_dir: Path, tmp_path: Path
) -> None:
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


def run_elsewhere(world: ImportedWorld) -> dict[str, Any]:
    """A night while another one runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(world.night, num_users=2).result()


class ForgetfulStore(MemoryStore):
    """Loses one record of every layer, as a server does that evicts when full."""

    async def write_layer(self, *arguments: Any, **options: Any) -> int:
        num_written = await super().write_layer(*arguments, **options)
        del self.values[next(key for key in self.values if f":p:{arguments[0]}" in key)]
        return num_written


def test_a_layer_that_did_not_arrive_whole_is_not_activated(
    world: ImportedWorld, data_dir: Path
) -> None:
    world.store = ForgetfulStore()
    asyncio.run(import_dataset(data_dir, world.store, world.progress))
    with pytest.raises(StoreUnavailable, match="39 of 40 records"):
        world.night()
    assert world.manifest() is None
