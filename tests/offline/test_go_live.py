"""Shards go live and back, over a real server that dies, fills up or loses data on the way."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from models.errors import GatesFailed, InvalidInput, ManifestConflict, StoreFull
from models.store.keys import DEFAULT_KEYS
from models.store.redis_store import RedisStore
from offline.disk.visible_rows import visible_rows
from offline.live.go_live import Launch, go_live
from offline.live.load import user_row
from tests.fakes.night_world import START_MS, NightWorld, names
from tests.fakes.service_harness import RedisServer

pytestmark = pytest.mark.timeout(300)
USERS = names(400)


@pytest.fixture
def world(redis_world: NightWorld) -> NightWorld:
    return redis_world


def kill_in(module: str, function: str, *, call: int = 1) -> str:
    """Code that kills the process at the given call of a function of ours."""
    return f"""
import os, signal
import {module} as module
real, calls = module.{function}, []
def deadly(*arguments, **options):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
module.{function} = deadly
"""


# --- loading


def test_a_night_goes_live_and_says_what_it_did(world: NightWorld) -> None:
    generation = world.think(1, USERS)
    summary = world.launch(generation)
    assert (summary["epoch"], summary["loaded"]) == (1, len(USERS))
    assert world.live() == [1]
    assert world.answered_from(USERS[7]) == 1
    assert all(gate["has_passed"] for gate in summary["gates"])
    assert json.loads((generation.folder / "summary.json").read_text()) == summary


@pytest.mark.system
def test_a_load_killed_in_the_middle_is_finished_by_the_next(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    world.think(2, USERS, seed=1)
    died = world.command("load", before=kill_in("models.store.redis_store", "encode_row", call=200))
    assert died.returncode == -signal.SIGKILL
    assert (world.live(), world.answered_from(USERS[0])) == ([1], 1)
    assert world.command("verify").returncode == 75
    assert world.said("load")["loaded"] == len(USERS)
    assert world.said("verify")["verified"] == len(USERS)
    assert world.said("activate")["epoch"] == 2
    assert world.answered_from(USERS[0]) == 2


@pytest.mark.system
@pytest.mark.parametrize(("function", "is_flipped"), [("to_manifest", False), ("keep_copy", True)])
def test_an_activation_killed_before_or_after_the_flip_is_finished_by_the_next(
    world: NightWorld, function: str, is_flipped: bool
) -> None:
    world.launch(world.think(1, USERS))
    world.think(2, USERS)
    died = world.command("activate", before=kill_in("offline.live.activate", function))
    assert died.returncode == -signal.SIGKILL
    assert world.live() == ([2] if is_flipped else [1])
    assert world.said("activate")["epoch"] == 2
    assert world.live() == [2]
    copy = json.loads((world.out_dir / "manifest.json").read_text())
    assert (copy["epoch"], copy["base"]["generation"]) == (2, START_MS + 2)


class Meddled:
    """A store, but something happens just before one of its writes."""

    def __init__(self, store: RedisStore, *, at: int, happen: Callable[[], object]) -> None:
        self._store = store
        self._at = at
        self._happen = happen
        self._num_writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write_layer(self, *arguments: Any, **options: Any) -> int:
        self._num_writes += 1
        if self._num_writes == self._at:
            self._happen()
        return await self._store.write_layer(*arguments, **options)


def meddle(launch: Launch, *, at: int, happen: Callable[[], object]) -> Launch:
    store: Any = Meddled(cast("RedisStore", launch.store), at=at, happen=happen)
    return replace(launch, store=store)


def test_a_store_restarted_empty_in_the_middle_is_loaded_again(
    world: NightWorld, server: RedisServer
) -> None:
    generation = world.think(1, USERS)
    with world.launching(generation) as launch:
        summary = go_live(meddle(launch, at=3, happen=server.flush))
    assert summary["loaded"] == len(USERS)
    assert world.said("verify")["verified"] == len(USERS)


def test_a_store_that_dies_and_comes_back_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or loaded again, if it was back before a held-up loader noticed."""
    with RedisServer(tmp_path) as server:
        world = NightWorld(server.url, tmp_path / "generations")
        back = threading.Timer(1.0, server.start)

        def die() -> None:
            server.kill()
            back.start()

        with world.launching(world.think(1, USERS)) as launch:
            summary = go_live(meddle(launch, at=3, happen=die))
        back.join()
    assert (summary["loaded"], summary["epoch"]) == (len(USERS), 1)
    assert summary["load_retries"] > 0 or "loading again" in caplog.text


def test_a_full_store_stops_the_load_before_the_flip(
    world: NightWorld, server: RedisServer
) -> None:
    world.launch(world.think(1, USERS))
    generation = world.think(2, names(20_000))
    with redis.Redis.from_url(server.url) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 3_000_000)
        try:
            with pytest.raises(StoreFull, match="the live generation is unchanged"):
                world.launch(generation)
        finally:
            client.config_set("maxmemory", 0)
    assert (world.live(), world.answered_from(USERS[0])) == ([1], 1)


def test_a_store_that_refuses_to_write_ends_a_load_with_75_until_there_is_room(
    world: NightWorld, server: RedisServer
) -> None:
    """Fewer users than it takes to see it coming: the server itself says no."""
    world.launch(world.think(1, USERS))
    generation = world.think(2, names(900))
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
        try:
            done = world.command("load")
            row = user_row(next(visible_rows(generation.folder)), generation.number, 0)
            with pytest.raises(StoreFull, match="maxmemory"):
                world.ask(lambda store: store.write_layer(generation.number, [row] * 900, 60))
        finally:
            client.config_set("maxmemory", 0)
    said = done.stderr.splitlines()[-1]
    assert (done.returncode, world.live()) == (75, [1])
    assert (
        "the live generation is unchanged: make room; continue with: python -m offline load" in said
    )
    assert world.said("load")["loaded"] == 900


def test_a_record_that_reads_differently_is_noticed(world: NightWorld, server: RedisServer) -> None:
    generation = world.think(1, USERS[:50])
    world.said("load")
    with redis.Redis.from_url(server.url) as client:
        key = DEFAULT_KEYS.record(USERS[3], generation.number)
        client.set(key, client.get(DEFAULT_KEYS.record(USERS[4], generation.number)) or b"")
    done = world.command("verify")
    assert (done.returncode, "differs from the written one" in done.stderr) == (75, True)


def test_keys_live_for_three_days_and_some_hours_more(
    world: NightWorld, server: RedisServer
) -> None:
    generation = world.think(1, USERS)
    world.launch(generation)
    with redis.Redis.from_url(server.url) as client:
        left = [client.ttl(DEFAULT_KEYS.record(user, generation.number)) for user in USERS]
    days = 24 * 3600
    assert 3 * days - 60 < min(left) < max(left) <= 3 * days + 6 * 3600
    assert len(set(left)) > 300


# --- gates


def test_a_failed_gate_leaves_yesterday_live_and_says_why(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    poor = world.think(2, USERS[:100], seed=1, users_due=400)
    with pytest.raises(GatesFailed, match=r"coverage is 0\.25, expected at least 0\.5"):
        world.launch(poor)
    assert world.live() == [1]
    assert "FAILED" in (poor.folder / "report.html").read_text()
    assert not (poor.folder / "summary.json").exists()
    done = world.command("activate")
    assert (done.returncode, "coverage" in done.stderr) == (65, True)
    summary = world.said("activate", "--force", "the import was late")
    assert (summary["forced"], summary["epoch"]) == ("the import was late", 2)
    assert "the import was late" in (poor.folder / "report.html").read_text()


def test_another_limit_of_a_gate_may_be_given(world: NightWorld) -> None:
    world.think(1, USERS[:100], users_due=400)
    assert world.said("activate", "--gate", "coverage=0.2")["epoch"] == 1
    assert world.command("activate", "--gate", "colour=1").returncode == 78


def test_the_gates_judge_what_users_did_since_the_plan(world: NightWorld) -> None:
    catalog = world.release.catalog
    first = world.think(1, USERS)
    world.launch(first)
    for at, user in enumerate(USERS):
        world.append(user, *catalog.item_ids[at % 50 : at % 50 + 9])
    summary = world.launch(world.think(2, USERS))
    recall = next(gate for gate in summary["gates"] if gate["name"] == "fresh_recall")
    assert recall["value"] == 1.0


# --- layers


def test_a_delta_lies_on_the_base_and_a_third_takes_over_the_smallest(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    world.launch(world.think(2, USERS[:10], layer="delta"))
    world.launch(world.think(3, USERS[5:8], layer="delta"))
    world.launch(world.think(4, USERS[20:22], layer="delta"))
    assert world.live() == [4, 2, 1]
    found = [world.answered_from(user) for user in (USERS[0], USERS[5], USERS[20], USERS[30])]
    assert found == [2, 4, 4, 1]


def test_what_a_kept_layer_says_newer_is_not_hidden_by_what_is_taken_over(
    world: NightWorld,
) -> None:
    world.launch(world.think(1, USERS))
    world.launch(world.think(2, USERS[:3], layer="delta"))
    world.launch(world.think(3, USERS[2:20], layer="delta"))
    world.launch(world.think(4, USERS[30:31], layer="delta"))
    assert world.live() == [4, 3, 1]
    assert [world.answered_from(user) for user in USERS[1:4]] == [4, 3, 3]


def test_a_delta_without_a_base_is_refused(world: NightWorld) -> None:
    with pytest.raises(InvalidInput, match="no base of its SID space"):
        world.launch(world.think(1, USERS, layer="delta"))


def test_a_night_that_was_overtaken_gives_way(world: NightWorld) -> None:
    older = world.think(1, USERS)
    world.launch(world.think(2, USERS))
    with pytest.raises(ManifestConflict, match="newer than"):
        world.launch(older)


def test_compaction_answers_everybody_as_before_from_one_base(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    world.launch(world.think(2, USERS[:10], layer="delta", seed=1), force="another seed")
    before = {user: _codes(world, user) for user in USERS[:20]}
    summary = world.said("compact")
    manifest = world.manifest()
    assert manifest is not None
    assert (manifest.deltas, manifest.base.users) == ((), len(USERS))
    assert {user: _codes(world, user) for user in USERS[:20]} == before
    assert summary["compacted"] == [START_MS + 2, START_MS + 1]


def _codes(world: NightWorld, user_id: str) -> Any:
    manifest = world.manifest()
    assert manifest is not None
    layers = [layer.generation for layer in manifest.layers]
    state = world.ask(lambda store: store.read_user(user_id, layers, world.release.space))
    assert state.record is not None
    return state.record.prefixes


# --- rollback, gc, canary


def test_a_rollback_goes_one_night_back_and_a_second_one_further(world: NightWorld) -> None:
    for number in (1, 2, 3):
        world.launch(world.think(number, USERS))
    assert world.said("rollback")["live"] == [START_MS + 2]
    assert world.answered_from(USERS[0]) == 2
    assert world.said("rollback")["live"] == [START_MS + 1]
    assert world.manifest().epoch == 5  # type: ignore[union-attr]
    done = world.command("rollback")
    assert (done.returncode, "nothing to roll back to" in done.stderr) == (78, True)
    assert world.said("rollback", "--to", "3")["live"] == [START_MS + 3]


def test_a_rollback_to_records_that_are_gone_is_refused(
    world: NightWorld, server: RedisServer
) -> None:
    first = world.think(1, USERS)
    world.launch(first)
    world.launch(world.think(2, USERS))
    with redis.Redis.from_url(server.url) as client:
        client.delete(DEFAULT_KEYS.record(USERS[0], first.number))
    done = world.command("rollback")
    assert (done.returncode, "expired or collected" in done.stderr) == (78, True)
    assert world.live() == [2]


def test_gc_keeps_what_is_live_wanted_or_still_loading(
    world: NightWorld, server: RedisServer
) -> None:
    for number in (1, 2, 3, 4):
        world.launch(world.think(number, USERS[:50]), keep=9)
    world.launch(world.think(5, USERS[:5], layer="delta"), keep=9)
    world.think(6, USERS)
    world.said("load")
    for number, age_s in ((0, 2 * 24 * 3600), (-1, 60)):  # two nights that never finished
        folder = world.out_dir / str(START_MS + number)
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    gone = world.said("gc", "--keep", "2")
    assert gone["folders"] == [str(START_MS + number) for number in (2, 1, 0)]
    assert set(gone["keys"]) == {str(START_MS + 1), str(START_MS + 2)}
    kept = sorted(int(folder.name) - START_MS for folder in world.out_dir.glob("[0-9]*"))
    assert kept == [-1, 3, 4, 5, 6]
    with redis.Redis.from_url(server.url) as client:
        keys = [str(key) for key in client.keys("ta:{*}:p:*")]
    found = {int(re.findall(r"\d+", key)[-1]) - START_MS for key in keys}
    assert found == {3, 4, 5, 6}
    assert [world.answered_from(user) for user in (USERS[0], USERS[9])] == [5, 4]


def test_a_canary_is_some_users_always_the_same_and_grows(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    generation = world.think(2, USERS)
    world.launch(generation, canary_percent=20.0)
    small = {user for user in USERS if _generation_of(world, user) == 2}
    assert 40 < len(small) < 120
    assert world.answered_from(min(small)) == 2
    world.launch(generation, canary_percent=60.0)
    large = {user for user in USERS if _generation_of(world, user) == 2}
    assert small < large
    assert len(large) > 180
    world.launch(generation)
    assert {_generation_of(world, user) for user in USERS} == {2}


def _generation_of(world: NightWorld, user_id: str) -> int:
    manifest = world.manifest()
    assert manifest is not None
    return manifest.layers_for(user_id)[0].generation - START_MS


def test_a_rollback_ends_a_canary(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    world.think(2, USERS)
    world.said("activate", "--canary", "50")
    assert world.said("rollback")["live"] == [START_MS + 1]
    assert {_generation_of(world, user) for user in USERS} == {1}


def test_a_canary_of_nobody_or_beside_nothing_is_refused(world: NightWorld) -> None:
    world.think(1, USERS)
    assert world.command("activate", "--canary", "0").returncode == 78
    assert world.command("activate", "--canary", "10").returncode == 78


# --- repair, erase


def everything(server: RedisServer) -> dict[bytes, Any]:
    """Every key of ours with its value; for a stream, the fields of its entries."""
    with redis.Redis.from_url(server.url) as client:
        found: dict[bytes, Any] = {}
        for key in client.keys("ta:*"):
            kind = client.type(key)
            if kind == b"stream":
                found[key] = [fields for _, fields in client.xrange(key)]
            elif kind == b"string":
                found[key] = client.get(key)
        return found


def test_a_repaired_store_equals_the_original(world: NightWorld, server: RedisServer) -> None:
    for user in USERS[:60]:
        world.append(user, *(f"item-{number}" for number in range(3)))
    world.launch(world.think(1, USERS))
    world.launch(world.think(2, USERS[:10], layer="delta"))
    world.append(USERS[0], "item-9")
    world.said("archive")
    before = everything(server)
    del before[b"ta:log"]  # its events are in the archive, and a learner has its own copy
    del before[b"ta:gates"]  # to look at; the next night writes its own
    server.flush()
    restored = world.said("repair")
    after = everything(server)
    assert restored["records"] == len(USERS) + 10
    assert after.keys() == before.keys()
    manifest = b"ta:manifest"
    assert {k: v for k, v in after.items() if k != manifest} == {
        k: v for k, v in before.items() if k != manifest
    }
    assert json.loads(after[manifest])["epoch"] == json.loads(before[manifest])["epoch"] + 1
    assert world.said("repair")["events"] == 0
    assert everything(server) == after


def test_an_erased_user_is_gone_and_no_repair_brings_them_back(
    world: NightWorld, server: RedisServer
) -> None:
    ann, bob = USERS[0], USERS[1]
    world.append(ann, "item-1", "item-2")
    world.append(bob, "item-1")
    world.launch(world.think(1, USERS))
    generation = world.think(2, USERS)
    (generation.folder / "failed.jsonl").write_text(
        "".join(f'{{"user_id": "{user}", "reason": "x"}}\n' for user in (ann, bob))
    )
    world.ask(lambda store: store.request_thinking(ann, "a wish"))
    gone = world.said("erase", ann)
    assert gone == {"keys": 3, "archived_events": 2, "dead_letters": 1}
    assert ann not in str(everything(server))
    world.launch(generation)
    server.flush()
    world.said("repair")
    assert ann not in str(everything(server))
    assert world.answered_from(bob) == 2
    assert ann not in (world.out_dir / "erased.jsonl").read_text()


def test_an_erased_user_who_comes_back_starts_anew(world: NightWorld, server: RedisServer) -> None:
    ann = USERS[0]
    world.append(ann, "item-1")
    world.launch(world.think(1, USERS))
    world.said("erase", ann)
    time.sleep(0.01)
    world.append(ann, "item-7")
    world.said("archive")
    server.flush()
    world.said("repair")
    history = world.ask(lambda store: store.read_histories([ann]))[ann]
    assert [event.item_id for event in history] == ["item-7"]


# --- status


def test_status_shows_generations_with_state_coverage_and_bytes(world: NightWorld) -> None:
    world.launch(world.think(1, USERS))
    world.think(2, USERS, users_due=800)
    (world.out_dir / str(START_MS + 3)).mkdir()
    done = world.command("status")
    lines = done.stdout.splitlines()
    assert lines[0] == "0 users with a history"
    assert re.search(r"1700000000001 +base +live .* 400 +100\.0% +\d+\.\d kB", done.stdout)
    assert re.search(r"1700000000002 +base +kept .* 400 +50\.0%", done.stdout)
    assert "unfinished" in done.stdout


def test_metrics_are_written_for_node_exporter(world: NightWorld, tmp_path: Path) -> None:
    world.launch(world.think(1, USERS), textfile=tmp_path / "night.prom")
    text = (tmp_path / "night.prom").read_text()
    assert "thinkahead_night_epoch 1\n" in text
    assert 'thinkahead_night_gate_passed{gate="legality"} 1\n' in text
    assert all(line.startswith(("#", "thinkahead_night_")) for line in text.splitlines())
