"""One contract of the event log, the item feed and the model pointer: in memory and in Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from models.catalog.fed_items import FedItem
from models.errors import InvalidRecord, ManifestConflict
from models.store.contract import BEGINNING, Logged, LogPage, order_of
from models.store.embedded import attach
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS
from models.store.model_pointer import ModelCanary, ModelPointer
from models.store.redis_store import RedisStore
from tests.fakes.memory_store import MemoryStore

Store = MemoryStore | RedisStore
POINTER = ModelPointer(epoch=1, base="0123456789ab", written_ms=5)
LIMIT = 300  # entries of the log


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with attach(tmp_path_factory.mktemp("state")) as server:
        yield server.url


@pytest.fixture
async def client(server_url: str) -> AsyncIterator["redis.asyncio.Redis"]:
    connection = redis.asyncio.Redis.from_url(server_url)
    await connection.flushall()
    yield connection
    await connection.aclose()


@pytest.fixture
async def redis_store(server_url: str, client: "redis.asyncio.Redis") -> AsyncIterator[RedisStore]:
    store = RedisStore(server_url, 5000, log_limit=LIMIT)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis_store: RedisStore) -> Store:
    return redis_store if request.param == "redis" else MemoryStore(log_limit=LIMIT)


def make_events(count: int, *, start: int = 0) -> list[Event]:
    return [Event(f"item {n}", n, f"event-{n}") for n in range(start, start + count)]


async def read_all(store: Store, after: str = BEGINNING, *, count: int = 100) -> list[Logged]:
    found: list[Logged] = []
    while (page := await store.read_log(after, count)).events:
        found += page.events
        after = page.last
    return found


async def test_new_events_of_all_users_are_logged_in_order(store: Store) -> None:
    assert await store.log_end() == BEGINNING
    assert await store.read_log(BEGINNING, 10) == LogPage((), BEGINNING, is_cut=False)
    bought = Event("b", 7, "sale", "purchase", 12.5)
    await store.append_events("ann", make_events(2))
    await store.append_each({"bob": [bought, *make_events(1)], "ünï/cødé": make_events(1)})
    found = await read_all(store, count=2)
    assert [(each.user_id, each.event) for each in found] == [
        *[("ann", event) for event in make_events(2)],
        ("bob", bought),
        ("bob", make_events(1)[0]),
        ("ünï/cødé", make_events(1)[0]),
    ]
    places = [order_of(each.entry) for each in found]
    assert places == sorted(set(places))
    assert await store.log_end() == found[-1].entry
    assert (await store.read_log(found[1].entry, 1)).events == (found[2],)


async def test_an_event_that_is_known_and_an_import_are_not_logged(store: Store) -> None:
    await store.append_histories({"ann": make_events(3), "bob": make_events(1)}, is_logged=False)
    assert await store.append_events("ann", make_events(4)) == 1
    assert [each.event for each in await read_all(store)] == make_events(1, start=3)


async def test_a_reader_is_told_if_entries_were_trimmed_before_it_came(store: Store) -> None:
    await store.append_events("ann", make_events(200))
    first = await store.read_log(BEGINNING, 150)
    assert not first.is_cut
    await store.append_events("bob", make_events(LIMIT))
    late = await store.read_log(first.last, 10)
    assert late.is_cut
    assert not (await store.read_log(late.last, 10)).is_cut
    end = await store.log_end()
    assert await store.read_log(end, 10) == LogPage((), end, is_cut=False)
    await store.append_events("cid", make_events(1))
    assert not (await store.read_log(end, 10)).is_cut


async def test_an_erased_user_leaves_the_log_and_nobody_calls_it_cut(store: Store) -> None:
    await store.append_events("ann", make_events(3))
    end = await store.log_end()
    await store.append_events("bob", make_events(2))
    await store.erase_user("ann")
    page = await store.read_log(end, 10)
    assert [each.user_id for each in page.events] == ["bob", "bob"]
    assert not page.is_cut
    assert {each.user_id for each in await read_all(store)} == {"bob"}


async def test_a_log_that_starts_again_is_cut(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.append_events("ann", make_events(3))
    end = await redis_store.log_end()
    await client.flushall()
    await asyncio.sleep(0.005)  # entries of one millisecond would have the same ids
    await redis_store.append_events("ann", make_events(3))
    assert (await redis_store.read_log(end, 10)).is_cut


async def test_foreign_entries_of_the_log_are_skipped(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await client.xadd(DEFAULT_KEYS.log, {"user": "ann"})
    await client.xadd(DEFAULT_KEYS.log, {"user": "ann", "event": "e", "value": "no time"})
    await redis_store.append_events("ann", make_events(1))
    await client.xadd(DEFAULT_KEYS.log, {"a": "b"})
    page = await redis_store.read_log(BEGINNING, 10)
    assert [each.event for each in page.events] == make_events(1)
    assert page.last == await redis_store.log_end() != page.events[-1].entry


async def test_an_append_succeeds_if_the_log_cannot_be_written(
    redis_store: RedisStore, client: "redis.asyncio.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    await client.set(DEFAULT_KEYS.log, "not a stream")
    for number in range(2):
        assert await redis_store.append_events("ann", make_events(1, start=number)) == 1
    assert len((await redis_store.read_histories(["ann"]))["ann"]) == 2
    assert caplog.text.count("not logged for the learner") == 1
    await client.delete(DEFAULT_KEYS.log)
    await redis_store.append_events("ann", make_events(3))
    assert len(await read_all(redis_store)) == 1


async def test_an_append_takes_two_round_trips_with_its_log(
    server_url: str, redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    """The read of known ids, and one write of history and log."""
    await redis_store.append_events("ann", make_events(1))
    before = (await client.info("stats"))["total_reads_processed"]
    await redis_store.append_each({"ann": make_events(3)})
    spent = (await client.info("stats"))["total_reads_processed"] - before
    assert spent == 1 + 2  # and the INFO
    assert await client.xlen(DEFAULT_KEYS.log) == 3


async def test_no_log_is_written_with_a_limit_of_zero(
    server_url: str, client: "redis.asyncio.Redis"
) -> None:
    quiet = RedisStore(server_url, 5000, log_limit=0)
    assert await quiet.append_events("ann", make_events(2)) == 2
    assert not await client.exists(DEFAULT_KEYS.log)
    await quiet.close()


async def test_offered_items_come_back_in_order(store: Store) -> None:
    tea = FedItem(item_id="tea", title="Tea", categories=("Food", "Drinks"))
    gone = FedItem(item_id="mug", withdrawn=True)
    await store.offer_items([])
    await store.offer_items([tea, gone])
    await store.offer_items([tea])
    page = await store.read_items(BEGINNING, 2)
    assert page.items == (tea, gone)
    rest = await store.read_items(page.last, 2)
    assert rest.items == (tea,)
    assert await store.read_items(rest.last, 2) == ((), rest.last)


async def test_a_foreign_entry_of_the_feed_is_skipped(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await client.xadd(DEFAULT_KEYS.items, {"item": "{}"})
    await redis_store.offer_items([FedItem(item_id="tea")])
    assert (await redis_store.read_items(BEGINNING, 9)).items == (FedItem(item_id="tea"),)


async def test_the_model_pointer_is_changed_by_compare_and_set(store: Store) -> None:
    assert await store.read_model() is None
    with pytest.raises(ManifestConflict, match="the model pointer is at no epoch, expected epoch"):
        await store.swap_model(POINTER, POINTER)
    await store.swap_model(None, POINTER)
    following = POINTER.model_copy(update={"epoch": 2, "deltas": 1, "sha256": "a" * 64})
    with pytest.raises(ManifestConflict):
        await store.swap_model(None, following)
    with pytest.raises(ManifestConflict, match="epoch 1 does not follow"):
        await store.swap_model(POINTER, POINTER)
    await store.swap_model(POINTER, following)
    assert await store.read_model() == following


async def test_one_of_two_racing_pointers_wins(redis_store: RedisStore) -> None:
    swaps = [
        redis_store.swap_model(None, POINTER.model_copy(update={"written_ms": at}))
        for at in range(8)
    ]
    outcomes = await asyncio.gather(*swaps, return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(each, ManifestConflict) for each in outcomes) == 7


async def test_foreign_bytes_are_no_model_pointer(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await client.set(DEFAULT_KEYS.model, b"{}")
    with pytest.raises(InvalidRecord, match="model pointer: base: Field required"):
        await redis_store.read_model()


def test_a_canary_takes_its_share_of_the_users() -> None:
    canary = ModelCanary(percent=20, base="ba9876543210", deltas=3, sha256="b" * 64)
    pointer = POINTER.model_copy(update={"canary": canary})
    assert ModelPointer.decode(pointer.encode()) == pointer
    taken = [pointer.for_user(f"user-{at}") == canary.version for at in range(2000)]
    assert 340 < sum(taken) < 460
    assert POINTER.for_user("ann") == POINTER.version == ("0123456789ab", 0, "")
    assert pointer.versions == {canary.version, POINTER.version}


@pytest.mark.parametrize(
    "change",
    [
        b'"base":"0123456789AB"',
        b'"base":"0123456789ab0"',
        b'"deltas":1',
        b'"sha256":"' + b"c" * 64 + b'"',
        b'"epoch":0',
        b'"watermark":"7"',
        b'"other":1',
    ],
)
def test_a_damaged_pointer_is_refused(change: bytes) -> None:
    whole = POINTER.encode()
    with pytest.raises(InvalidRecord, match="model pointer: "):
        ModelPointer.decode(whole[:-1] + b"," + change + b"}")
