"""The mode `fused`: the night's bonus counts in the ranking, and fades with every new event."""

import time

import numpy as np
import pytest

from models.night.night_items import FADE
from models.store.records import RecordedItem
from models.store.redis_store import RedisStore
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    scores_of,
    serving,
    some_prefixes,
    toy_engine,
)

BONUS = 12.0


@pytest.fixture
async def store(server: RedisServer) -> RedisStore:
    server.flush()
    store = RedisStore(server.url, timeout_ms=10_000)
    await activate(store, GENERATION)
    return store


def raised_items(history: list[str], num: int = 5) -> list[str]:
    """Items that would be just outside the list without a bonus."""
    return [item_id for item_id, _ in scores_of(history, None)[12 : 12 + num]]


def as_recorded(wanted: list[str]) -> list[RecordedItem]:
    catalog = toy_engine().catalog
    rows = catalog.rows(wanted)
    return [RecordedItem(tuple(catalog.sids[row].tolist()), BONUS) for row in rows]


def expected_scores(
    history: list[str], items: list[RecordedItem], share: float
) -> dict[str, float]:
    catalog = toy_engine().catalog
    raised = {item.codes for item in items}
    return {
        item_id: score
        + share * BONUS * (tuple(catalog.sids[catalog.rows([item_id])[0]].tolist()) in raised)
        for item_id, score in scores_of(history, None)
    }


@pytest.mark.parametrize("num_fresh", [0, 1, 2])
async def test_a_recorded_item_gets_its_bonus_and_new_events_take_it_away(
    store: RedisStore, num_fresh: int
) -> None:
    history = item_ids(4 + num_fresh)
    items = as_recorded(raised_items(history))
    async with serving(store, mode="fused", online_prefixes=1000) as service:
        await give_history(store, "user", history[:4])
        await give_record(store, "user", new_record(prefixes=some_prefixes(4), items=items))
        for item_id in history[4:]:
            event = {"item_id": item_id, "timestamp": int(time.time())}
            posted = await service.client.post("/events/user", json=event)
            assert posted.status_code < 300, posted.text
        answer = await service.recommend("user", n=10)
    scores = expected_scores(history, items, FADE**num_fresh)
    ranked = sorted(scores, key=lambda item_id: -scores[item_id])[:10]
    assert [item["item_id"] for item in answer["items"]] == ranked
    found = [item["score"] for item in answer["items"]]
    assert np.allclose(found, [scores[item_id] for item_id in ranked], atol=1e-4)
    assert answer["source"] == "personal"


async def test_strict_and_union_leave_the_bonus_out(store: RedisStore) -> None:
    history = item_ids(4)
    record = new_record(prefixes=some_prefixes(4), items=as_recorded(raised_items(history)))
    await give_history(store, "user", history)
    await give_record(store, "user", record)
    async with serving(store, mode="fused", online_prefixes=1000) as service:
        union = await service.recommend("user", n=10, mode="union")
        strict = await service.recommend("user", n=10, mode="strict")
    plain = [item_id for item_id, _ in scores_of(history, None)[:10]]
    assert [item["item_id"] for item in union["items"]] == plain
    below = [item_id for item_id, _ in scores_of(history, some_prefixes(4))[:10]]
    assert [item["item_id"] for item in strict["items"]][: len(below)] == below


async def test_a_record_without_items_is_a_union(store: RedisStore) -> None:
    history = item_ids(4)
    await give_history(store, "user", history)
    await give_record(store, "user", new_record(prefixes=some_prefixes(4)))
    async with serving(store) as service:
        fused = await service.recommend("user", n=10, mode="fused")
        union = await service.recommend("user", n=10, mode="union")
    assert fused["items"] == union["items"]


async def test_items_that_the_catalog_lacks_are_left_out(store: RedisStore) -> None:
    catalog = toy_engine().catalog
    known = {tuple(sid) for sid in catalog.sids.tolist()}
    sizes = catalog.space.sizes
    absent = next(codes for codes in np.ndindex(*sizes) if codes not in known)
    record = new_record(prefixes=some_prefixes(4), items=[RecordedItem(tuple(absent), BONUS)])
    await give_history(store, "user", item_ids(4))
    await give_record(store, "user", record)
    async with serving(store) as service:
        fused = await service.recommend("user", n=10, mode="fused")
        union = await service.recommend("user", n=10, mode="union")
    assert [item["item_id"] for item in fused["items"]] == [
        item["item_id"] for item in union["items"]
    ]
