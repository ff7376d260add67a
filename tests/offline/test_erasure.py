"""Erasures that the service was asked for, as workers and nights carry them out."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from models.errors import InvalidUserId
from models.store.contract import NightStore
from models.store.records import hash_user
from models.store.redis_store import RedisStore
from offline.disk.archive import read_archive
from offline.live.erasure import erase
from tests.fakes.memory_store import MemoryStore
from tests.fakes.night_world import NightWorld, names
from tests.fakes.service_harness import RedisServer
from tests.offline.test_worker import working

pytestmark = pytest.mark.timeout(300)
USERS = names(40)
ANN, BOB = USERS[:2]


@pytest.fixture
def world(redis_world: NightWorld) -> NightWorld:
    for user in USERS[:3]:
        redis_world.append(user, "item-1", "item-2")
    return redis_world


def everything(server: RedisServer) -> str:
    """All keys with their values, and all entries of streams."""
    with redis.Redis.from_url(server.url) as client:
        keys: Any = client.keys("*")
        return str([(k, client.type(k) == b"stream" and client.xrange(k)) for k in sorted(keys)])


def test_a_worker_erases_whoever_asked_and_no_repair_brings_them_back(
    world: NightWorld, server: RedisServer
) -> None:
    world.launch(world.think(1, USERS))
    world.ask(lambda store: store.request_thinking(ANN, "a wish"))
    world.ask(lambda store: store.request_erasure(ANN))
    with working(world) as worker:
        assert worker.serve_once() == (0, 0)  # the wish went too
    assert ANN not in everything(server)
    found = world.ask(lambda store: store.read_erasures("0-0"))
    assert not found.waiting
    assert found.erased == {hash_user(ANN)}
    server.flush()
    world.said("repair")
    assert ANN not in everything(server)
    assert world.answered_from(BOB) == 1


def test_a_night_erases_as_well_where_no_worker_runs(
    world: NightWorld, server: RedisServer
) -> None:
    world.launch(world.think(1, USERS))
    world.ask(lambda store: store.request_erasure(ANN))
    world.launch(world.think(2, USERS))
    assert ANN not in everything(server)
    assert world.answered_from(BOB) == 2


def test_an_erasure_whose_worker_died_is_claimed_by_another(
    world: NightWorld, server: RedisServer
) -> None:
    world.launch(world.think(1, USERS))
    world.ask(lambda store: store.request_erasure(ANN))
    taken = world.ask(lambda store: store.take_erasures("doomed", count=9, idle_ms=60_000))
    assert [erasure.user_id for erasure in taken] == [ANN]
    with working(world, "second") as patient:
        patient.serve_once()
    assert world.ask(lambda store: store.read_erasures(None)).waiting == {ANN}
    time.sleep(0.06)
    with working(world, "third", idle_ms=50) as eager:
        eager.serve_once()
    assert ANN not in everything(server)


def test_an_entry_that_names_no_user_is_settled(world: NightWorld) -> None:
    world.ask(lambda store: store._ask(("XADD", "ta:erasures", "*", "colour", "red")))
    world.ask(lambda store: store._ask(("XADD", "ta:erasures", "*", "user", b"\xff\x00")))
    with working(world) as worker:
        worker.serve_once()
    assert world.ask(lambda store: store._ask(("XLEN", "ta:erasures"))) == [0]


def test_two_who_erase_at_once_leave_neither_in_the_archive(world: NightWorld) -> None:
    """Both write the same part again, without their own user."""
    world.said("archive")

    def erase_one(user_id: str) -> None:
        world.ask(lambda store: erase(user_id, store, world.out_dir, now_ms=1))  # hides nothing

    with ThreadPoolExecutor() as pool:
        list(pool.map(erase_one, USERS[:3]))
    assert [user for user, _ in read_archive(world.out_dir)] == []


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_erasures_wait_until_they_are_settled(server: RedisServer, kind: str) -> None:
    server.flush()
    store: NightStore = MemoryStore() if kind == "memory" else RedisStore(server.url, 5000)
    before = await store.read_erasures(None)
    await store.request_erasure(ANN)
    await store.request_erasure(BOB)
    taken = await store.take_erasures("me", count=9, idle_ms=60_000)
    assert [each.user_id for each in taken] == [ANN, BOB]
    during = await store.read_erasures(before.last)
    assert during.waiting == {ANN, BOB}
    assert not during.erased
    await store.settle_erasures(taken[:1])
    after = await store.read_erasures(during.last)
    assert after.waiting == {BOB}
    assert after.erased == {hash_user(ANN)}
    await store.settle_erasures(taken[1:])
    assert await store.take_erasures("me", count=9, idle_ms=0) == []
    assert (await store.read_erasures(after.last)).erased == {hash_user(BOB)}
    assert (await store.read_erasures(None)).erased == frozenset()
    with pytest.raises(InvalidUserId):
        await store.request_erasure("")
    await store.close()
