"""The store on a cluster: three masters and three replicas on loopback."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from bench.chaos.faults.redis_cluster import RedisCluster
from models.catalog.fed_items import FedItem
from models.errors import InvalidSettings, StoreUnavailable
from models.store.contract import BEGINNING, LogPage
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS
from models.store.model_pointer import ModelPointer
from models.store.redis_store import RedisStore
from offline.live.go_live import go_live
from tests.fakes.night_world import NightWorld, names
from tests.offline.test_go_live import Meddled

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
USERS = names(600)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def world(cluster: RedisCluster, tmp_path: Path) -> NightWorld:
    return NightWorld(cluster.url, tmp_path / "generations")


def test_a_night_and_its_rollback_and_gc_over_three_masters(
    world: NightWorld, cluster: RedisCluster
) -> None:
    for user in USERS[:30]:
        world.append(user, "item-1", "item-2")
    for number in (1, 2, 3):
        world.launch(world.think(number, USERS), keep=9)
    counts = []
    for port in cluster.masters():
        with redis.Redis(port=port) as client:
            counts.append(client.dbsize())
    assert min(counts) > 500
    assert world.said("rollback")["epoch"] == 4
    assert world.answered_from(USERS[5]) == 2
    gone = world.said("gc", "--keep", "0")
    assert list(gone["keys"].values()) == [2 * len(USERS)]
    assert world.ask(lambda store: store.user_ids()) == USERS[:30]
    assert world.said("erase", USERS[0])["keys"] > 1


def test_a_user_is_read_in_one_round_trip_from_one_master(
    world: NightWorld, cluster: RedisCluster
) -> None:
    clients = [redis.Redis(port=port) for port in cluster.masters()]

    def num_reads() -> int:
        return sum(int(client.info("stats")["total_reads_processed"]) for client in clients)

    async def read(store: RedisStore) -> list[int]:
        await store.append_events(USERS[0], [Event("item-1", 1, "e")])
        spent = []
        for _ in range(10):
            before = num_reads()
            state = await store.read_user(USERS[0], [3, 2, 1], world.release.space)
            spent.append(num_reads() - before - len(clients))  # an INFO each
            assert len(state.history) == 1
        return spent

    assert min(world.ask(read)) == 1  # replicas that report once a second are counted as well
    for client in clients:
        client.close()


def test_events_are_logged_and_the_model_is_pointed_at_from_any_slot(
    world: NightWorld, cluster: RedisCluster
) -> None:
    """The log lies in a slot of its own: the event goes to two masters."""

    async def use(store: RedisStore) -> LogPage:
        for user in USERS[:5]:
            await store.append_events(user, [Event("item-1", 1, "e")])
        many = {user: [Event("item-2", 2, "f"), Event("item-3", 3, "g")] for user in USERS[:9]}
        await store.append_each(many)
        await store.append_histories({USERS[9]: many[USERS[0]]}, is_logged=False)
        await store.offer_items([FedItem(item_id="new")])
        assert (await store.read_items(BEGINNING, 9)).items == (FedItem(item_id="new"),)
        pointer = ModelPointer(epoch=1, base="0123456789ab", written_ms=1)
        await store.swap_model(None, pointer)
        assert await store.read_model() == pointer
        await store.erase_user(USERS[0])
        return await store.read_log(BEGINNING, 99)

    page = world.ask(use)
    assert not page.is_cut
    assert [(each.user_id, each.event.event_id) for each in page.events] == [
        *((user, "e") for user in USERS[1:5]),
        *((user, each) for user in USERS[1:9] for each in "fg"),
    ]

    async def append_without_the_log(store: RedisStore) -> tuple[int, int]:
        cluster.kill(cluster.master_of(DEFAULT_KEYS.log))
        users = [user for user in USERS if cluster.master_of(DEFAULT_KEYS.history(user)) != victim]
        alone = await store.append_events(users[20], [Event("item-4", 4, "h")])
        return alone, len((await store.read_histories([users[20]]))[users[20]])

    victim = cluster.master_of(DEFAULT_KEYS.log)
    assert world.ask(append_without_the_log) == (1, 1)


def test_a_master_that_dies_during_the_load_costs_seconds_and_no_record(
    world: NightWorld, cluster: RedisCluster
) -> None:
    generation = world.think(1, USERS)
    victim = cluster.master_of(DEFAULT_KEYS.record(USERS[0], generation.number))
    with world.launching(generation) as launch:
        store: Any = Meddled(
            launch.store,  # type: ignore[arg-type]
            at=3,
            happen=lambda: cluster.kill(victim),
        )
        summary = go_live(replace(launch, store=store))
    assert (summary["loaded"], summary["epoch"]) == (len(USERS), 1)
    assert world.said("verify")["verified"] == len(USERS)


def test_a_reader_finds_its_users_again_within_five_seconds(
    world: NightWorld, cluster: RedisCluster
) -> None:
    generation = world.think(1, USERS)
    world.launch(generation)
    time.sleep(1.0)  # replicas have the writes
    victim = cluster.master_of(DEFAULT_KEYS.record(USERS[0], generation.number))

    async def follow() -> float:
        store = RedisStore(cluster.url, 200)
        space = world.release.space
        try:
            assert (await store.read_user(USERS[0], [generation.number], space)).record
            threading.Thread(target=cluster.kill, args=(victim,)).start()
            killed_at = time.monotonic()
            await asyncio.sleep(0.3)
            while True:
                try:
                    state = await store.read_user(USERS[0], [generation.number], space)
                except StoreUnavailable:
                    assert time.monotonic() - killed_at < 30
                    await asyncio.sleep(0.05)
                    continue
                assert state.record is not None
                return time.monotonic() - killed_at
        finally:
            await store.close()

    assert asyncio.run(follow()) < 5.0


def test_requests_and_repair_work_on_a_cluster(world: NightWorld, cluster: RedisCluster) -> None:
    world.append(USERS[0], "item-1")
    world.launch(world.think(1, USERS[:50]))
    world.ask(lambda store: store.request_thinking(USERS[0], "soon"))
    taken = world.ask(lambda store: store.take_requests("me", count=9, wait_ms=10, idle_ms=60_000))
    assert [request.user_id for request in taken] == [USERS[0]]
    world.ask(lambda store: store.settle_requests(taken))
    for port in cluster.masters():
        with redis.Redis(port=port) as client:
            client.flushall()
    restored = world.said("repair")
    assert (restored["records"], restored["events"]) == (50, 1)
    assert world.answered_from(USERS[0]) == 1
    status = json.loads(world.command("status", "--json").stdout)
    assert status["generations"][0]["record_bytes"] > 50


@pytest.mark.parametrize("url", ["redis://h:1?cluster=maybe", "unix:///tmp/s?cluster=true"])
def test_a_bad_cluster_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings):
        RedisStore(url, 50)
