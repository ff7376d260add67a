"""A wish changes the online ranking in every mode, exactly, from the next answer on."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.store.redis_store import RedisStore
from models.store.wish_turns import WishTurn
from service.recommend.wishes import Wishes
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
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

STRENGTH = 6.0
HISTORY = item_ids(3)


@pytest.fixture
async def store(server: RedisServer) -> RedisStore:
    server.flush()
    store = RedisStore(server.url, timeout_ms=10_000)
    await activate(store, GENERATION)
    for user in ("user", "other"):
        await give_history(store, user, HISTORY)
    await give_record(store, "user", new_record())
    return store


@pytest.fixture
async def service(store: RedisStore) -> AsyncIterator[InProcess]:
    async with serving(store, wish_nats=STRENGTH) as service:
        yield service


async def wish(service: InProcess, user: str, text: str | None, **fields: Any) -> dict[str, Any]:
    body = {"instruction": text, **fields}
    answer = await service.client.post(f"/v1/users/{user}/think", json=body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()["wish"]
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def has(item_id: str, category: str) -> bool:
    catalog = toy_engine().catalog
    return category in catalog.categories[catalog.rows([item_id])[0]]


def expected(category: str, num: int) -> list[str]:
    """Brute force over all items, with the bonus of the wish."""
    catalog = toy_engine().catalog
    scores = {
        item_id: score + STRENGTH * has(item_id, category) for item_id, score in scores_of(HISTORY)
    }
    return sorted(scores, key=lambda each: (-scores[each], catalog.rows([each])[0]))[:num]


@pytest.mark.parametrize("user", ["user", "other"])
async def test_a_wish_is_ranked_exactly_over_the_whole_catalog(
    service: InProcess, user: str
) -> None:
    before = ids(await service.recommend(user, n=10, mode="fused"))
    heard = await wish(service, user, "I would like something for the bath")
    assert heard["answer"] == "Showing more Bath, for 30 minutes."
    assert heard["until"] == pytest.approx(time.time() + 1800, abs=20)
    answer = await service.recommend(user, n=10, mode="fused")
    assert answer["wish"] == {"wanted": ["Bath"], "unwanted": [], "until": heard["until"]}
    assert ids(answer) == expected("Bath", 10) != before
    assert answer["degraded"] is False


async def test_a_wish_looks_beyond_the_record_in_every_mode(service: InProcess) -> None:
    outside = {
        category
        for category in ("Nails", "Hair", "Face", "Bath")
        if not any(has(item, category) for item, _ in scores_of(HISTORY, some_prefixes()))
    }
    category = sorted(outside)[0]
    await wish(service, "user", f"show me {category}")
    best = [item for item in expected(category, 200) if has(item, category)][:5]
    for mode in ("strict", "union", "fused"):
        found = ids(await service.recommend("user", n=10, mode=mode))
        assert [item for item in found if has(item, category)][:5] == best, mode


async def test_what_is_refused_comes_from_no_rung(service: InProcess) -> None:
    for user in ("user", "other", "nobody"):
        heard = await wish(service, user, "no bath, please")
        assert (heard["wanted"], heard["unwanted"]) == ([], ["Bath"])
        for mode in ("strict", "union", "fused"):
            found = ids(await service.recommend(user, n=100, mode=mode))
            assert len(found) == 100
            assert not any(has(item, "Bath") for item in found), (user, mode)


async def test_a_user_without_a_history_gets_what_was_asked_for(service: InProcess) -> None:
    await wish(service, "nobody", "nails")
    found = ids(await service.recommend("nobody", n=10))
    assert sum(has(item, "Nails") for item in found) > 5


async def test_turns_refine_a_wish_and_that_brand_is_of_the_first_item(service: InProcess) -> None:
    await wish(service, "user", "bath")
    answer = await service.recommend("user", n=10)
    catalog = toy_engine().catalog
    brand = catalog.brands[catalog.rows(ids(answer)[:1])[0]]
    heard = await wish(service, "user", "not that brand")
    assert (heard["wanted"], heard["unwanted"]) == (["Bath"], [brand])
    found = await service.recommend("user", n=10)
    assert all(catalog.brands[row] != brand for row in catalog.rows(ids(found)))
    given = await wish(service, "user", "not that brand either", item_id=catalog.item_ids[0])
    assert catalog.brands[0] in given["unwanted"]


async def test_a_wish_is_taken_back_by_words_or_by_a_field(service: InProcess) -> None:
    before = ids(await service.recommend("user", n=10))
    for text, fields in (("never mind", {}), (None, {"forget_wish": True})):
        await wish(service, "user", "bath")
        assert "wish" in await service.recommend("user", n=10)
        await wish(service, "user", text, **fields)
        answer = await service.recommend("user", n=10)
        assert ("wish" in answer, ids(answer)) == (False, before)


async def test_what_is_not_understood_is_said_and_leaves_the_wish_as_it_was(
    service: InProcess,
) -> None:
    heard = await wish(service, "user", "zorblax!")
    assert (heard["answer"], heard["until"]) == ("Not understood: zorblax.", None)
    assert "wish" not in await service.recommend("user", n=10)
    until = (await wish(service, "user", "bath"))["until"]
    assert (await wish(service, "user", "zorblax!"))["until"] == until
    assert (await service.recommend("user", n=10))["wish"]["wanted"] == ["Bath"]


async def test_a_wish_ends_after_its_time(store: RedisStore) -> None:
    async with serving(store, wish_minutes=0.02) as service:
        before = ids(await service.recommend("user", n=10))
        await wish(service, "user", "bath")
        assert "wish" in await service.recommend("user", n=10)
        await asyncio.sleep(2.3)
        answer = await service.recommend("user", n=10)
        assert ("wish" in answer, ids(answer)) == (False, before)
        assert await store.read_wish("user") == ()


async def test_an_erased_user_has_no_wish(service: InProcess, store: RedisStore) -> None:
    await wish(service, "user", "bath")
    await service.client.delete("/v1/users/user")
    assert "wish" not in await service.recommend("user", n=10)
    await store.erase_user("user")
    assert await store.read_wish("user") == ()


def test_the_wishes_used_last_are_kept_as_far_as_the_bytes_reach() -> None:
    catalog = toy_engine().catalog
    wishes = Wishes(catalog, kept_bytes=2 * 30 * len(catalog))
    bath, nails, hair = ((WishTurn(text, 1),) for text in ("bath", "nails", "hair"))
    first, second = wishes.get(bath), wishes.get(nails)
    assert wishes.get(bath) is first
    wishes.get(hair)
    assert wishes.get(bath) is first
    assert wishes.get(nails) is not second
