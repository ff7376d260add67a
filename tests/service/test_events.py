"""Posted events: each once, by whichever process, and in the very next answer of any."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.store.events import HISTORY_LIMIT, Event
from models.store.redis_store import RedisStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    RedisServer,
    ServiceProcess,
    item_ids,
    toy_release_dir,
)

FACTS = ("stored", "new", "reason")


@pytest.fixture
def users() -> None:
    """The store is empty."""


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"manifest_poll_ms": 60_000, "outbox_limit": 3}


async def post(service: InProcess, *events: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await service.client.post("/v1/events:batch", json={"events": events})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_a_batch_of_events_reaches_every_history(
    service: InProcess, store: MemoryStore
) -> None:
    a, b = item_ids(2)
    results = await post(
        service,
        {"user_id": "ann", "item_id": a, "timestamp": 1, "event_id": "1"},
        {"user_id": "bob", "item_id": "unheard-of", "timestamp": 2, "event_id": "2"},
        {"user_id": "ann", "item_id": b, "timestamp": 3, "event_id": "3"},
        {"user_id": "ann", "item_id": b, "timestamp": 3, "event_id": "3"},
    )
    assert [(r["status"], r["known"], r["new"]) for r in results] == [
        *((200, True, True), (200, False, True), (200, True, True), (200, True, False)),
    ]
    histories = await store.read_histories(["ann", "bob"])
    assert {user: [e.item_id for e in events] for user, events in histories.items()} == {
        "ann": [a, b],
        "bob": ["unheard-of"],
    }
    assert (await service.recommend("ann"))["source"] == "online"


async def test_a_bad_event_of_a_batch_fails_alone(service: InProcess) -> None:
    good: dict[str, Any] = {"user_id": "ann", "item_id": "x", "event_id": "good"}
    bad: list[dict[str, Any]] = [
        {**good, "user_id": ""},
        {**good, "user_id": "a\x00"},
        {**good, "item_id": ""},
        {**good, "item_id": "a\x07"},
        {**good, "timestamp": -1},
        {**good, "timestamp": 10**15},
        {**good, "event_id": "x" * 129},
    ]
    results = await post(service, *bad, good)
    assert [result["status"] for result in results] == [422] * len(bad) + [200]
    assert all(result["detail"] for result in results[:-1])
    assert results[-1]["event_id"] == "good"


async def test_a_full_history_says_that_an_old_event_is_not_stored(service: InProcess) -> None:
    """It was dropped and answered `"stored": true, "new": false`."""
    base: dict[str, Any] = {"user_id": "ann", "item_id": "x"}
    await post(service, *({**base, "timestamp": 1000 + at} for at in range(HISTORY_LIMIT)))
    old, new = {"item_id": "y", "timestamp": 999}, {"item_id": "z", "timestamp": 5000}
    told = [(await service.client.post("/events/ann", json=event)) for event in (old, new)]
    facts = [(each.status_code, *map(each.json().get, FACTS)) for each in told]
    assert facts == [(200, False, False, "too_old"), (200, True, True, None)]
    results = await post(service, *({"user_id": "ann", **event} for event in (old, new)))
    assert [(each["status"], *map(each.get, FACTS)) for each in results] == [
        *((200, False, False, "too_old"), (200, True, True, None)),
    ]


@pytest.mark.parametrize(
    ("unit", "hint"),
    [(1000, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds"), (1.001, None)],
)
async def test_times_in_the_future_are_refused_by_name(
    service: InProcess, store: MemoryStore, unit: float, hint: str | None
) -> None:
    """Events in milliseconds were newer than all later ones, which the store then dropped."""
    wrong = {"item_id": "x", "timestamp": int(time.time() * unit)}
    right = {"item_id": "x", "timestamp": int(time.time()) + 23 * 3600, "event_id": "right"}
    alone = await service.client.post("/events/ann", json=wrong)
    (error,) = alone.json()["errors"]
    assert (alone.status_code, error["where"]) == (422, "body.timestamp")
    results = await post(service, *({"user_id": "ann", **each} for each in (wrong, right)))
    assert [each["status"] for each in results] == [422, 200]
    for text in (error["what"], results[0]["detail"]):
        assert "is over a day ahead, expected unix seconds up to" in text
        assert text.endswith(f"it looks like {hint}") == (hint is not None)
    for body in ({"user_id": "ann", "session": [wrong]}, {"history": [wrong]}):
        assert (await service.client.post("/v1/recommend", json=body)).status_code == 422
    assert [event.event_id for event in (await store.read_histories(["ann"]))["ann"]] == ["right"]


async def test_an_event_may_have_a_type_and_a_value(service: InProcess, store: MemoryStore) -> None:
    event: dict[str, Any] = {"item_id": "x", "timestamp": 7, "event_id": "sale"}
    bought = event | {"type": "purchase", "value": 12.5}
    alone = (await service.client.post("/v1/events/ann", json=bought)).json()
    assert (alone["type"], alone["value"]) == ("purchase", 12.5)
    plain = (await service.client.post("/events/bob", json=event)).json()
    assert (plain["type"], plain["value"]) == (None, None)
    await post(service, bought | {"user_id": "cid", "value": 3})
    assert await store.read_histories(["ann", "bob", "cid"]) == {
        "ann": (Event("x", 7, "sale", "purchase", 12.5),),
        "bob": (Event("x", 7, "sale"),),
        "cid": (Event("x", 7, "sale", "purchase", 3.0),),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "Buy"},
        {"type": ""},
        {"type": "x" * 33},
        {"type": "a,b"},
        {"value": 1e999},
        {"value": 10**400},
    ],
    ids=str,
)
async def test_a_bad_type_or_value_is_refused(service: InProcess, wrong: dict[str, Any]) -> None:
    text = json.dumps({"item_id": "x", **wrong})
    headers = {"Content-Type": "application/json"}
    alone = await service.client.post("/events/ann", content=text, headers=headers)
    assert alone.status_code == 422
    many = f'{{"events": [{text[:-1]}, "user_id": "ann"}}]}}'
    answer = await service.client.post("/v1/events:batch", content=many, headers=headers)
    assert answer.json()["results"][0]["status"] == 422


async def test_a_batch_sent_again_adds_nothing(service: InProcess, store: MemoryStore) -> None:
    events = [{"user_id": f"user-{at}", "item_id": "x", "event_id": "1"} for at in range(500)]
    first, second = await post(service, *events), await post(service, *events)
    assert {result["new"] for result in first} == {True}
    assert {result["new"] for result in second} == {False}
    more = await service.client.post("/v1/events:batch", json={"events": [*events, events[0]]})
    assert more.status_code == 422


async def test_a_batch_waits_for_a_store_that_is_away_as_long_as_there_is_room(
    service: InProcess, store: MemoryStore
) -> None:
    store.is_away = True
    events = [{"user_id": f"user-{at}", "item_id": "x", "event_id": "1"} for at in range(4)]
    assert [result["status"] for result in await post(service, *events[:3])] == [202] * 3
    refused = await post(service, *events[3:], {"user_id": "", "item_id": "x"})
    assert [result["status"] for result in refused] == [503, 422]


@pytest.mark.system
@pytest.mark.timeout(300)
def test_an_event_counts_once_and_at_once_in_every_process(tmp_path: Path) -> None:
    """Two real processes over one Redis: retried across them, answered within a second."""
    clicked = item_ids(1)[0]
    with RedisServer(tmp_path) as server:
        arguments = ("--release", str(toy_release_dir()), "--redis", server.url)
        patience = {"THINKAHEAD_REDIS_TIMEOUT_MS": "2000", "THINKAHEAD_REQUEST_BUDGET_MS": "5000"}
        with (
            ServiceProcess(*arguments, environ=patience) as one,
            ServiceProcess(*arguments, environ=patience) as other,
            httpx.Client(timeout=30) as client,
        ):
            before = client.get(f"{other.url}/v1/recommend/user").json()
            assert before["source"] == "global"
            event = {"item_id": clicked, "event_id": "click"}
            taken = client.post(f"{one.url}/v1/events/user", json=event)
            posted_at = time.monotonic()
            after = client.get(f"{other.url}/v1/recommend/user?n=100").json()
            assert time.monotonic() - posted_at < 1
            assert (taken.json()["new"], after["source"]) == (True, "online")
            assert clicked not in [item["item_id"] for item in after["items"]]
            again = client.post(f"{other.url}/events/user", json=event)
            assert (again.status_code, again.json()["new"]) == (200, False)
        stored = asyncio.run(histories(server.url))
    assert [event.event_id for event in stored] == ["click"]


async def histories(url: str) -> Any:
    store = RedisStore(url, 5000)
    try:
        return (await store.read_histories(["user"]))["user"]
    finally:
        await store.close()
