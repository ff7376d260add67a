"""A sticky share of users at each lower rung: their selection and their answers."""

from collections import Counter
from typing import Any

import pytest

from service.recommend.experiments import HELD_RUNGS, Holdback
from service.sources import Reason, Source
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    scores_of,
    serving,
    toy_engine,
)

SHARE = 0.1
KNOWN = [
    Source.GLOBAL,
    None,
    None,
    None,
    None,
    None,
    Source.ONLINE,
    Source.ONLINE,
]  # of users 0 to 7


def user_held_at(rung: Source | None) -> str:
    """The first of many users that the hash assigns to `rung`."""
    shares = Holdback(SHARE)
    return next(user for user in map(str, range(1000)) if shares.rung_of(user) == rung)


@pytest.fixture
async def users(store: MemoryStore) -> None:
    for rung in (*HELD_RUNGS, None):
        await give_record(store, user_held_at(rung), new_record())
        await give_history(store, user_held_at(rung), item_ids(3))
    await activate(store, GENERATION)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"rung_share": SHARE}


def test_each_rung_has_its_share_and_a_user_is_in_one_at_most() -> None:
    shares = Holdback(0.005)
    counts = Counter(shares.rung_of(f"user-{at}") for at in range(100_000))
    for rung in HELD_RUNGS:
        assert abs(counts[rung] / 100_000 - 0.005) < 0.001
    assert counts[None] > 98_000


def test_who_is_held_is_the_same_in_every_process_for_ever() -> None:
    """Known answers: another hash or salt would assign users differently and end comparisons."""
    shares = Holdback(SHARE)
    assert [shares.rung_of(str(at)) for at in range(8)] == KNOWN


def test_a_share_of_none_holds_nobody() -> None:
    assert {Holdback(0).rung_of(str(at)) for at in range(1000)} == {None}


@pytest.mark.parametrize("rung", HELD_RUNGS)
async def test_a_held_user_gets_that_rung_and_nothing_is_degraded(
    service: InProcess, rung: Source
) -> None:
    answer = await service.recommend(user_held_at(rung), n=5)
    assert (answer["source"], answer["degraded"], answer["generation"]) == (rung, False, None)
    assert {item["source"] for item in answer["items"]} == {rung}
    assert not {item["item_id"] for item in answer["items"]} & set(item_ids(3))
    fallbacks = 'thinkahead_fallbacks_total{reason="%s"}'
    assert await service.metric(fallbacks % Reason.HELD) == 1
    assert await service.metric(fallbacks % Reason.NO_RECORD) == 0
    timed = f'thinkahead_rung_seconds_count{{held="true",source="{rung}"}}'
    assert await service.metric(timed) == 1


async def test_all_others_are_served_as_ever(service: InProcess) -> None:
    answer = await service.recommend(user_held_at(None))
    assert (answer["source"], answer["degraded"]) == ("personal", False)
    timed = 'thinkahead_rung_seconds_count{held="false",source="personal"}'
    assert await service.metric(timed) == 1


async def test_a_user_held_at_online_gets_the_models_own_ranking(service: InProcess) -> None:
    answer = await service.recommend(user_held_at(Source.ONLINE), n=3)
    best = [item for item, _ in scores_of(item_ids(3))][:3]
    assert [item["item_id"] for item in answer["items"]] == best


async def test_a_user_held_at_online_of_whom_nothing_is_known_gets_the_global_rung() -> None:
    async with serving(MemoryStore(), rung_share=SHARE) as service:
        answer = await service.recommend(user_held_at(Source.ONLINE))
        assert (answer["source"], answer["degraded"]) == ("global", False)


async def test_filters_hold_for_held_users_too(service: InProcess) -> None:
    hidden = toy_engine().release.popular[:3]
    answer = await service.recommend(user_held_at(Source.POPULAR), exclude=",".join(hidden))
    assert not {item["item_id"] for item in answer["items"]} & set(hidden)


async def test_an_outage_is_a_fault_for_held_users_too() -> None:
    store = MemoryStore()
    async with serving(store, rung_share=SHARE) as service:
        store.is_away = True
        answer = await service.recommend(user_held_at(Source.GLOBAL))
        assert (answer["source"], answer["degraded"]) == ("global", True)
