"""Events and outages: the service's knowledge of a user while the store comes and goes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from models.errors import StoreUnavailable
from models.store.events import HISTORY_LIMIT, Event, Fate
from models.store.user_state import UserState
from service.users.breaker import FAILURES_TO_OPEN, Breaker
from service.users.local_state import ErasureWatch, EventBuffer, LastGoodCache
from service.users.reader import Users
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
    toy_engine,
)


class CountingStore(MemoryStore):
    """A memory store that knows how often it was asked for a user."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0

    async def before_read(self, user_id: str) -> None:
        self.num_reads += 1


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def users(store: CountingStore) -> None:
    await activate(store, GENERATION)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"manifest_poll_ms": 60_000}


async def test_the_very_next_recommendation_uses_an_event(service: InProcess) -> None:
    first = await service.recommend("user")
    clicked = first["items"][0]["item_id"]
    answer = await service.client.post("/events/user", json={"item_id": clicked, "event_id": "1"})
    assert answer.status_code == 200
    taken = answer.json()
    assert (taken["known"], taken["stored"], taken["new"]) == (True, True, True)
    assert abs(taken["timestamp"] - time.time()) < 60
    second = await service.recommend("user")
    assert (first["source"], second["source"]) == ("global", "online")
    assert clicked not in [item["item_id"] for item in second["items"]]


async def test_an_event_sent_twice_counts_once(service: InProcess, store: MemoryStore) -> None:
    item = item_ids(1)[0]
    event = {"item_id": item, "timestamp": 5, "event_id": "click"}
    answers = [await service.client.post("/events/user", json=event) for _ in range(2)]
    assert [answer.json()["new"] for answer in answers] == [True, False]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert await store.read_histories(["user"]) == {"user": (Event(item, 5, "click"),)}


async def test_events_without_an_id_all_count(service: InProcess, store: MemoryStore) -> None:
    for _ in range(2):
        await service.client.post("/events/user", json={"item_id": item_ids(1)[0]})
    assert len((await store.read_histories(["user"]))["user"]) == 2


async def test_an_unknown_item_is_kept_and_flagged(service: InProcess, store: MemoryStore) -> None:
    answer = await service.client.post("/events/user", json={"item_id": "new-in-the-shop"})
    assert (answer.status_code, answer.json()["known"]) == (200, False)
    assert (await store.read_histories(["user"]))["user"][0].item_id == "new-in-the-shop"
    assert (await service.recommend("user"))["source"] == "global"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.item_id"),
        ({"item_id": ""}, "body.item_id"),
        ({"item_id": "x" * 257}, "body.item_id"),
        ({"item_id": "é" * 200}, "body.item_id"),
        ({"item_id": "a\nb"}, "body.item_id"),
        ({"item_id": "x", "timestamp": 1_700_000_000_000}, "body.timestamp"),
        ({"item_id": "x", "timestamp": -1}, "body.timestamp"),
        ({"item_id": "x", "timestamp": 10**400}, "body.timestamp"),
        ({"item_id": "x", "event_id": ""}, "body.event_id"),
        ({"item_id": "x", "item": "y"}, "body.item"),
    ],
)
async def test_a_bad_event_is_422_and_nothing_is_stored(
    service: InProcess, store: MemoryStore, body: dict[str, object], where: str
) -> None:
    answer = await service.client.post("/events/user", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == where
    assert await store.user_ids() == []


async def test_an_outage_leaves_the_last_good_copy_then_the_ladder(
    service: InProcess, store: CountingStore
) -> None:
    await give_record(store, "personal", new_record())
    await give_history(store, "online", item_ids(2))
    for user in ("personal", "online"):
        await service.recommend(user)
    store.is_away = True
    answers = {user: await service.recommend(user) for user in ("personal", "online", "stranger")}
    assert {user: answer["source"] for user, answer in answers.items()} == {
        "personal": "stale",
        "online": "online",
        "stranger": "global",
    }
    assert all(answer["degraded"] for answer in answers.values())
    assert answers["personal"]["generation"]["id"] == GENERATION


async def test_the_copy_knows_events_that_came_through_this_process(
    service: InProcess, store: CountingStore
) -> None:
    await service.recommend("user")
    clicked = item_ids(1)[0]
    await service.client.post("/events/user", json={"item_id": clicked})
    store.is_away = True
    answer = await service.recommend("user", n=100)
    assert answer["source"] == "online"
    assert clicked not in [item["item_id"] for item in answer["items"]]


async def test_an_explanation_that_cannot_be_read_is_left_out_and_counted(
    service: InProcess, store: CountingStore
) -> None:
    await give_record(store, "user", new_record())
    assert len((await service.recommend("user", explain="true"))["paths"]) == 4
    store.is_away = True
    answer = await service.recommend("user", explain="true")
    assert (answer["source"], answer["paths"]) == ("stale", [])
    assert await service.metric('thinkahead_fallbacks_total{reason="thoughts"}') == 1


async def test_a_dead_store_is_not_asked_after_a_few_failures(
    service: InProcess, store: CountingStore
) -> None:
    store.is_away = True
    for _ in range(FAILURES_TO_OPEN + 5):
        await service.recommend("user")
    asked_in_vain = await service.metric('thinkahead_fallbacks_total{reason="store"}')
    assert 1 <= asked_in_vain <= FAILURES_TO_OPEN  # the watch looked too, and its failures count
    assert store.num_reads == asked_in_vain
    assert await service.metric("thinkahead_breaker_open") == 1
    spared = await service.metric('thinkahead_fallbacks_total{reason="breaker"}')
    assert spared == FAILURES_TO_OPEN + 5 - asked_in_vain


async def test_a_store_that_returns_is_used_again_without_a_request_asking_first() -> None:
    store = CountingStore()
    await activate(store, GENERATION)
    await give_record(store, "user", new_record())
    async with serving(store, manifest_poll_ms=20) as service:
        store.is_away = True
        for _ in range(FAILURES_TO_OPEN):
            await service.recommend("user")
        store.is_away = False
        deadline = time.monotonic() + 30
        while (await service.recommend("user"))["source"] != "personal":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert await service.metric("thinkahead_breaker_open") == 0


async def test_an_event_waits_for_a_store_that_is_away_and_counts_at_once() -> None:
    store, clicked = MemoryStore(), item_ids(1)[0]
    async with serving(store, manifest_poll_ms=20) as service:
        store.is_away = True
        event = {"item_id": clicked, "event_id": "click"}
        answers = [await service.client.post("/events/user", json=event) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert (answers[0].json()["stored"], answers[0].json()["new"]) == (False, None)
        during = await service.recommend("user", n=100)
        assert during["source"] == "online"
        assert clicked not in [item["item_id"] for item in during["items"]]
        assert await service.metric("thinkahead_outbox_events") == 1
        store.is_away = False
        deadline = time.monotonic() + 30
        while await service.metric("thinkahead_outbox_events"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert [event.event_id for event in (await store.read_histories(["user"]))["user"]] == [
            "click"
        ]


async def test_a_full_outbox_is_503_with_a_time_to_retry() -> None:
    store = MemoryStore()
    store.is_away = True
    async with serving(store, outbox_limit=2) as service:
        posts = [
            await service.client.post(f"/events/user-{at}", json={"item_id": "x"})
            for at in range(3)
        ]
        assert [answer.status_code for answer in posts] == [202, 202, 503]
        assert posts[2].headers["retry-after"] == "1"
        assert posts[2].headers["content-type"] == "application/problem+json"


async def test_events_that_wait_are_handed_over_at_shutdown() -> None:
    store = MemoryStore()
    async with serving(store, manifest_poll_ms=60_000) as service:
        store.is_away = True
        await service.client.post("/events/user", json={"item_id": "x", "event_id": "1"})
        store.is_away = False
    assert await store.user_ids() == ["user"]


def test_an_outbox_takes_all_of_a_batch_or_none() -> None:
    buffer = EventBuffer(limit=2)
    events = [Event("x", at, str(at)) for at in range(3)]
    with pytest.raises(StoreUnavailable):
        buffer.put({"ann": events[:1], "bob": events[1:]})
    assert (buffer.users(), len(buffer)) == ((), 0)
    buffer.put({"ann": events[:2]})
    buffer.put({"ann": events[:2]})  # they wait already
    assert buffer.waiting("ann") == tuple(events[:2])


def test_copies_keep_the_users_that_were_seen_last() -> None:
    cache = LastGoodCache(limit=2)
    state = UserState((), None)
    for user in ("a", "b"):
        cache.keep(user, state)
    cache.get("a")
    cache.keep("c", state)
    assert [cache.get(user) is not None for user in ("a", "b", "c")] == [True, False, True]
    assert len(cache) == 2


def test_an_outbox_keeps_what_came_while_it_was_being_emptied() -> None:
    buffer = EventBuffer(limit=10)
    first, later = Event("x", 1, "1"), Event("y", 2, "2")
    buffer.put({"user": [first, first]})
    sending = buffer.waiting("user")
    buffer.put({"user": [first, later]})
    buffer.settle("user", sending)
    assert (buffer.waiting("user"), len(buffer)) == ((later,), 1)
    buffer.settle("user", (later,))
    assert (buffer.users(), len(buffer)) == ((), 0)


def users_over(
    store: MemoryStore, *, cache: LastGoodCache, buffer: EventBuffer, breaker: Breaker
) -> Users:
    return Users(
        store,
        space=toy_engine().catalog.space,
        breaker=breaker,
        cache=cache,
        buffer=buffer,
        erasures=ErasureWatch(store, cache=cache, buffer=buffer),
    )


async def test_events_that_this_process_has_no_time_for_are_kept_and_no_fault_of_the_store() -> (
    None
):
    """Ten times the load made them late: the breaker opened, and everybody's answer was stale."""

    class SlowStore(MemoryStore):
        async def append_each(
            self, histories: Mapping[str, Sequence[Event]]
        ) -> dict[str, list[Fate]]:
            await asyncio.sleep(1.0)
            return await super().append_each(histories)

    breaker, buffer = Breaker(), EventBuffer(100)
    users = users_over(SlowStore(), cache=LastGoodCache(limit=1), buffer=buffer, breaker=breaker)
    for at in range(2 * FAILURES_TO_OPEN):
        event = Event("x", at, str(at))
        (appended,) = (await users.append({"user": [event]}, patience_s=0.001))["user"]
        assert not appended.stored
    assert not breaker.is_in_doubt
    assert len(buffer) == 2 * FAILURES_TO_OPEN


async def test_a_copy_does_not_grow_beyond_a_history() -> None:
    cache = LastGoodCache(limit=1)
    users = users_over(MemoryStore(), cache=cache, buffer=EventBuffer(10), breaker=Breaker())
    await users.read("user", ())
    for at in range(HISTORY_LIMIT + 10):
        await users.append({"user": [Event("x", at, str(at))]})
    copy = cache.get("user")
    assert copy is not None
    assert len(copy.history) == HISTORY_LIMIT
