"""Plans: users to think about, users to carry over, their order, the plan on disk, its cost."""

import asyncio
import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from models.errors import InvalidInput
from models.log.tombstones import write_tombstone
from models.reasoner.think import UserHistory, UserThoughts
from models.release.release import Release
from models.store.keys import DEFAULT_KEYS
from offline.disk.shards import read_rows
from offline.plan.carried_rows import LiveRow, read_live_rows
from offline.plan.due import DueUser, cut_shards, sort_by_urgency
from offline.plan.importer import import_dataset
from offline.plan.make_plan import Agenda, FolderHistories, make_agenda, write_agenda
from offline.plan.plan_file import newest_plan, read_plan, read_users, write_users
from offline.progress import make_progress
from offline.think.estimate import SAMPLE_USERS, estimate
from offline.think.micro_batch import Think
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_night import HOUR_MS, NOW_MS, NUM_USERS, NightWorld, user_name

DAY_MS = 24 * HOUR_MS


def everybody() -> list[str]:
    return [user_name(user) for user in range(NUM_USERS)]


# --- users to think about


def test_users_of_whom_nothing_has_changed_are_carried_and_not_thought_about(
    world: NightWorld,
) -> None:
    first = world.night()
    before = {user_id: world.record(user_id) for user_id in everybody()}
    second = world.night()
    assert world.thought == []
    assert (second["refreshed"], second["carried"], second["users"]) == (0, NUM_USERS, NUM_USERS)
    assert (second["layer"], second["epoch"]) == ("base", 2)
    for user_id, old in before.items():
        new = world.record(user_id)
        assert old is not None
        assert new == replace(old, generation=second["generation"])
        assert new.created_at == first["created_at"]
        assert asyncio.run(world.store.read_thoughts(user_id, second["generation"])) == (
            f"about {user_id}",
        )


def test_a_carried_record_never_expires(world: NightWorld) -> None:
    """Two days between the nights, three that a record lives."""
    first = world.night()
    for _ in range(4):
        world.now_ms += 2 * DAY_MS
        assert world.night()["carried"] == NUM_USERS
        record = world.record("user-07")
        assert record is not None
        assert record.created_at == first["created_at"]


def test_a_new_event_makes_its_user_due_and_nobody_else(world: NightWorld) -> None:
    world.night()
    world.add("user-03", "item-9", at=5000)
    second = world.night()
    assert world.thought == ["user-03"]
    assert (second["refreshed"], second["carried"]) == (1, NUM_USERS - 1)
    record = world.record("user-03")
    assert record is not None
    assert record.created_at == second["created_at"]


@pytest.mark.parametrize("settings", [{"paths": 6}, {"width": 3}, {"seed": 1}, {"rethink": True}])
def test_whoever_would_be_thought_about_differently_is_due(
    world: NightWorld, settings: dict[str, Any]
) -> None:
    world.night()
    assert world.night(**settings)["refreshed"] == NUM_USERS
    assert sorted(world.thought) == everybody()


def with_another_reasoner(world: NightWorld, folder: Path, text: str) -> None:
    """Give the world a release whose reasoner has one file more."""
    copy = Path(shutil.copytree(world.release.directory, folder))
    (copy / "reasoner" / "more.txt").write_text(text)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["reasoner/more.txt"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    world.release = Release.load(copy)


def test_another_reasoner_makes_everybody_due_unless_thoughts_are_kept(
    world: NightWorld, tmp_path: Path
) -> None:
    first = world.night()
    for number in range(2):  # rows of the first reasoner stay known over two more
        with_another_reasoner(world, tmp_path / f"release-{number}", f"{number}")
        world.add("user-03", f"item-{number}", at=5000 + number)
        assert world.night(keep_thoughts=True)["refreshed"] == 1
        assert world.thought == ["user-03"]
    record = world.record("user-04")
    assert record is not None
    assert record.created_at == first["created_at"]
    assert world.night(keep_thoughts=True, paths=6)["refreshed"] == NUM_USERS
    with_another_reasoner(world, tmp_path / "last", "last")
    assert world.night(paths=6)["refreshed"] == NUM_USERS


def test_an_item_that_is_unknown_or_too_long_ago_changes_nothing(world: NightWorld) -> None:
    for at in range(50):
        world.add("user-03", f"item-{at}", at=6000 + at)
    world.night()
    world.add("user-03", "not in the catalog", at=7000)
    world.add("user-03", "item-77", at=1)
    world.night()
    assert world.thought == []


def test_a_delta_carries_those_of_its_users_who_have_not_changed(world: NightWorld) -> None:
    base = world.night()
    world.add("user-01", "item-9", at=5000)
    delta = world.night(is_whole=False, user_ids=("user-01", "user-02"))
    assert world.thought == ["user-01"]
    assert (delta["layer"], delta["refreshed"], delta["carried"]) == ("delta", 1, 1)
    records = [world.record(user_id) for user_id in ("user-01", "user-02", "user-03")]
    generations = [record.generation for record in records if record]
    assert generations == [delta["generation"], delta["generation"], base["generation"]]
    times = [record.created_at for record in records if record]
    assert times == [delta["created_at"], base["created_at"], base["created_at"]]


def test_the_newest_row_of_a_user_is_the_one_that_is_carried(world: NightWorld) -> None:
    world.night()
    world.add("user-01", "item-9", at=5000)
    delta = world.night(is_whole=False, user_ids=("user-01",))
    whole = world.night()
    assert (world.thought, whole["carried"]) == ([], NUM_USERS)
    record = world.record("user-01")
    assert record is not None
    assert record.created_at == delta["created_at"]


def test_the_third_delta_holds_the_users_of_the_one_it_replaces(world: NightWorld) -> None:
    world.night()
    for number in range(3):
        world.add(user_name(number), "item-9", at=5000)
        world.night(is_whole=False, user_ids=(user_name(number),))
    summary = json.loads((newest(world) / "_SUCCESS.json").read_text())
    rows = {row.thoughts.user_id for row in read_rows(newest(world))}
    assert rows == {"user-01", "user-02"}
    assert (summary["carried"], summary["users"]) == (1, 2)


def newest(world: NightWorld) -> Path:
    folder = newest_plan(world.out_dir)
    assert folder is not None
    return folder


def test_nobody_without_a_history_is_carried(world: NightWorld) -> None:
    """The user's events were erased in between: the thoughts about the user must go too."""
    world.night()
    world.store._streams = {
        key: events for key, events in world.store._streams.items() if "user-03" not in key
    }
    assert world.night()["carried"] == NUM_USERS - 1
    assert world.record("user-03") is None


def test_a_user_who_was_erased_is_not_carried_even_when_the_history_is_the_same(
    world: NightWorld,
) -> None:
    world.night()
    write_tombstone(world.out_dir, user_name(3), now_ms=world.now_ms + 1000)
    summary = world.night()
    assert (world.thought, summary["carried"]) == ([user_name(3)], NUM_USERS - 1)


def test_a_row_whose_prefixes_the_catalog_lacks_is_not_carried(world: NightWorld) -> None:
    world.night()
    manifest = world.manifest()
    assert manifest is not None
    small = toy_catalog(num_items=60)
    live = read_live_rows(world.out_dir, manifest.layers, small, must_have=None)
    legal = {tuple(codes) for codes in small.trie.prefixes().tolist()}
    for row in read_rows(newest(world)):
        is_legal = all(prefix.codes in legal for prefix in row.thoughts.prefixes)
        assert live[row.thoughts.user_id].is_legal == is_legal
    assert 0 < sum(row.is_legal for row in live.values()) < NUM_USERS


def test_what_is_not_on_this_disk_is_thought_about_again(
    world: NightWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.night()
    elsewhere = replace(world, out_dir=tmp_path / "elsewhere")
    elsewhere.store = world.store
    assert elsewhere.night()["refreshed"] == NUM_USERS
    assert "its users will be thought about again" in caplog.text


def test_users_who_came_out_empty_do_not_stop_a_night_that_carries_others(
    world: NightWorld,
) -> None:
    world.night()
    world.add("user-03", "item-9", at=5000)
    world.wrap = lambda think: lambda users: [replace(each, prefixes=()) for each in think(users)]
    summary = world.night()
    assert (summary["empty"], summary["refreshed"], summary["users"]) == (1, 0, NUM_USERS - 1)


def test_users_of_whom_the_catalog_knows_nothing_are_counted(world: NightWorld) -> None:
    world.add("stranger", "no such item", at=1)
    summary = world.night()
    assert (summary["unreadable"], summary["users"]) == (1, NUM_USERS)
    assert summary["users_chosen"] == NUM_USERS + 1


def test_users_of_another_data_set_are_one_line(
    world: NightWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for at in range(3 * NUM_USERS):
        world.add(f"stranger-{at:03d}", "no such item", at=1)
    world.night()
    (line,) = [each for each in caplog.messages if "no item of" in each]
    assert line == (
        f"{3 * NUM_USERS} of {4 * NUM_USERS} users due have no item of "
        f"toy@{world.release.version} and are left out, such as 'stranger-000', 'stranger-001', "
        "'stranger-002'; does the store hold the users of another data set? See --namespace"
    )


# --- order and micro-batches


def due(name: str, *, day: int, length: int = 1) -> DueUser:
    return DueUser(UserHistory(name, tuple(range(length))), f"digest of {name}", day * 86400 + 5)


def test_the_order_is_no_record_then_recent_then_stale() -> None:
    live = {
        name: LiveRow("1/part", "", created_at, is_legal=True)
        for name, created_at in {"new-fresh": 900, "new-stale": 100, "old": 50}.items()
    }
    users = [
        due("old", day=3),
        due("new-fresh", day=9),
        due("nobody-old", day=1),
        due("new-stale", day=9),
        due("nobody-new", day=2),
    ]
    names = [user.history.user_id for user in sort_by_urgency(users, live)]
    assert names == ["nobody-new", "nobody-old", "new-stale", "new-fresh", "old"]


def test_shards_keep_the_order_and_micro_batches_hold_like_lengths(world: NightWorld) -> None:
    users = [due(f"user-{n}", day=n, length=1 + n * 7 % 11) for n in range(30)]
    shards = list(cut_shards(users, world.settings(micro_batch=4, shard_batches=3)))
    assert [len(shard) for shard in shards] == [12, 12, 6]
    for number, shard in enumerate(shards):
        expected = {user.history.user_id for user in users[12 * number : 12 * number + 12]}
        assert {user.user_id for user in shard} == expected
        assert [user.group for user in shard] == [at // 4 for at in range(len(shard))]
        assert all(len(one.rows) <= len(next_.rows) for one, next_ in pairwise(shard))
        assert all(user.digest == f"digest of {user.user_id}" for user in shard)


# --- the plan on disk


def agenda_of(world: NightWorld, histories: Any = None, **settings: Any) -> Agenda:
    return asyncio.run(
        make_agenda(
            world.settings(**settings),
            world.release,
            histories or world.store,
            held=world.manifest(),
            now_ms=NOW_MS,
        )
    )


def test_one_plan_has_one_text_and_one_run_id(world: NightWorld, tmp_path: Path) -> None:
    world.add("user-é", "item-1", at=3)
    settings = world.settings()
    plan = write_agenda(settings, agenda_of(world))
    folder = newest(world)
    text = (folder / "plan.json").read_text()
    assert read_plan(folder) == plan
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    again = write_agenda(replace(settings, out_dir=tmp_path / "again"), agenda_of(world))
    other = write_agenda(
        replace(settings, out_dir=tmp_path / "other", seed=1), agenda_of(world, seed=1)
    )
    assert (plan.run_id == again.run_id, plan.run_id == other.run_id) == (True, False)
    assert plan.num_thought == plan.users_chosen == NUM_USERS + 1


def test_another_history_is_another_run(world: NightWorld, tmp_path: Path) -> None:
    plan = write_agenda(world.settings(), agenda_of(world))
    world.add("user-03", "item-9", at=5000)
    settings = replace(world.settings(), out_dir=tmp_path / "again")
    assert write_agenda(settings, agenda_of(world)).run_id != plan.run_id


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "plan.json: document"),
        (b'{"generation": 1}', r"plan.json: \w+: Field required"),
        (b"\xff", "plan.json: document"),
    ],
)
def test_a_plan_that_is_none_is_invalid_input(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=complaint):
        read_plan(tmp_path)
    with pytest.raises(InvalidInput, match="no such plan"):
        read_plan(tmp_path / "nowhere")


def test_users_that_are_not_the_plans_are_refused(world: NightWorld) -> None:
    plan = write_agenda(world.settings(), agenda_of(world))
    folder = newest(world)
    users = read_users(folder, plan, 0)
    write_users(folder, 0, users[1:])
    with pytest.raises(InvalidInput, match=r"plan-00000\.parquet: SHA-256"):
        read_users(folder, plan, 0)


def test_a_data_folder_gives_the_plan_that_importing_it_would(
    world: NightWorld, tmp_path: Path
) -> None:
    catalog = world.release.catalog
    rows = [
        {"user_id": user_name(user), "item_id": catalog.item_ids[row], "timestamp": 9, "pos": at}
        for user, history in enumerate(toy_histories(catalog, num_users=NUM_USERS))
        for at, row in enumerate(history)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": list(catalog.item_ids)}), tmp_path / "items.parquet")
    world.store._streams.clear()
    progress = make_progress(Console(file=io.StringIO()))
    asyncio.run(import_dataset(tmp_path, world.store, progress))
    from_store = write_agenda(world.settings(), agenda_of(world))
    from_folder = write_agenda(
        replace(world.settings(), out_dir=tmp_path / "again"),
        agenda_of(world, FolderHistories(tmp_path)),
    )
    assert from_folder == from_store


# --- cost


class Clock:
    """Two seconds a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def test_a_dry_run_scales_up_a_sample(world: NightWorld) -> None:
    catalog = world.release.catalog
    for user in range(NUM_USERS, 2 * SAMPLE_USERS):
        world.add(user_name(user), catalog.item_ids[user], at=5)
    settings = world.settings(price_per_hour=3600.0)
    found = estimate(
        settings, agenda_of(world), lambda: world.load(world.release, settings), clock=Clock()
    )
    assert len(world.thought) == len(set(world.thought)) == found["sample_users"] == SAMPLE_USERS
    expected = {
        "users_chosen": 128,
        "users_to_think_about": 128,
        "users_to_carry": 0,
        "tokens": 1280,
        "users_per_s": 32.0,
        "eta_s": 4.0,
        "device_hours": round(4 / 3600, 4),
        "money": 4.0,
    }
    assert found.items() >= expected.items()
    assert not world.out_dir.exists()


def test_a_dry_run_knows_the_bytes_in_redis(world: NightWorld) -> None:
    settings = world.settings()
    found = estimate(settings, agenda_of(world), lambda: world.load(world.release, settings))
    generation = world.night()["generation"]
    keys = [
        key(user, generation)
        for key in (DEFAULT_KEYS.record, DEFAULT_KEYS.thoughts)
        for user in everybody()
    ]
    num_bytes = sum(126 + len(world.store.values[key]) for key in keys)
    assert found["redis_bytes"] == pytest.approx(num_bytes, rel=0.001)
    assert found["money"] is None


class Elsewhere:
    """Thinks on other machines, which have to be given back."""

    def __init__(self, think: Think) -> None:
        self.is_closed = False
        self._think = think

    def expect(self, batches: Sequence[Sequence[UserHistory]]) -> None:
        raise AssertionError("a sample is thought about at once")

    def __call__(self, users: Sequence[UserHistory]) -> list[UserThoughts]:
        assert not self.is_closed
        return self._think(users)

    def close(self) -> None:
        self.is_closed = True


def test_a_dry_run_gives_the_engine_back(world: NightWorld) -> None:
    settings = world.settings()
    engine = Elsewhere(world.load(world.release, settings))
    assert estimate(settings, agenda_of(world), lambda: engine)["sample_users"] == NUM_USERS
    assert engine.is_closed


def test_a_dry_run_with_nobody_due_loads_no_reasoner(world: NightWorld) -> None:
    world.night()

    def load() -> Think:
        raise AssertionError("not asked for")

    found = estimate(world.settings(), agenda_of(world), load)
    assert (found["users_to_think_about"], found["users_to_carry"]) == (0, NUM_USERS)
    assert (found["device_hours"], found["users_per_s"]) == (0, None)
