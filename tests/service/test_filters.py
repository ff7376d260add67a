"""Exclusions and categories of a request: every rung keeps to them, and n is filled."""

from typing import Any

import pytest

from service.api.requests import MAX_EXCLUDED
from service.recommend.categories import MAX_KEPT, Categories
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
    some_prefixes,
    toy_engine,
)

NUM_OWN = 5


@pytest.fixture
async def users(store: MemoryStore, users: None) -> None:
    await give_history(store, "online", item_ids(3))


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"online_prefixes": NUM_OWN}


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def category_of(item_id: str) -> tuple[str, ...]:
    catalog = toy_engine().catalog
    row = catalog.row(item_id)
    assert row is not None
    return catalog.categories[row]


async def test_excluded_items_are_left_out_inside_the_search_so_that_n_is_filled(
    service: InProcess,
) -> None:
    expected = [item for item, _ in scores_of(item_ids(3), some_prefixes(4))]
    answer = await service.recommend("user", n=4, exclude=expected[:3])
    assert ids(answer) == expected[3:7]
    assert (answer["source"], answer["degraded"]) == ("personal", False)


async def test_excluded_items_may_be_repeated_or_joined_by_commas_and_be_unknown(
    service: InProcess,
) -> None:
    first, second, third, *rest = [item for item, _ in scores_of(item_ids(3), some_prefixes(4))]
    answer = await service.recommend("user", n=2, exclude=[f"{first},{second},,no-such", third])
    assert ids(answer) == rest[:2]


@pytest.mark.parametrize("user", ["user", "online", "nobody"])
async def test_no_rung_gives_an_excluded_item(service: InProcess, user: str) -> None:
    before = await service.recommend(user, n=100)
    excluded = ids(before)[::2]
    answer = await service.recommend(user, n=100, exclude=",".join(excluded))
    assert len(answer["items"]) == 100
    assert not set(ids(answer)) & set(excluded)
    popular = await service.recommend(user, n=100, exclude=",".join(excluded), timeout_ms=1)
    assert {item["source"] for item in popular["items"]} == {"popular"}
    assert not set(ids(popular)) & set(excluded)
    assert len(popular["items"]) == 100


async def test_a_category_is_ranked_exactly_and_topped_up_from_the_next_rungs(
    service: InProcess,
) -> None:
    history = item_ids(3)
    personal = [item for item, _ in scores_of(history, some_prefixes(4), category="Hair")]
    everywhere = [item for item, _ in scores_of(history, category="Hair")]
    answer = await service.recommend("user", n=20, category="Hair")
    rest = [item for item in everywhere if item not in personal]
    assert ids(answer) == [*personal, *rest][:20]
    sources = [item["source"] for item in answer["items"]]
    assert sources == ["personal"] * len(personal) + ["online"] * (20 - len(personal))
    assert answer["degraded"] is False


@pytest.mark.parametrize("user", ["user", "online", "nobody"])
@pytest.mark.parametrize("category", ["Beauty", "Hair", "Kind 3"])
async def test_a_category_is_filled_as_far_as_it_goes_and_never_left(
    service: InProcess, user: str, category: str
) -> None:
    catalog, seen = toy_engine().catalog, set(item_ids(3)) if user != "nobody" else set()
    members = {item for item in catalog.item_ids if category in category_of(item)} - seen
    for timeout_ms in (None, 1):  # 1: nothing but the popular rung
        answer = await service.recommend(user, n=100, category=category, timeout_ms=timeout_ms)
        assert set(ids(answer)) <= members
        assert len(answer["items"]) == min(100, len(members))


async def test_an_unknown_category_is_an_empty_answer(service: InProcess) -> None:
    answer = await service.recommend("user", category="No such thing")
    assert (answer["items"], answer["source"], answer["degraded"]) == ([], "popular", False)
    assert answer["generation"] is None


async def test_a_category_that_no_prefix_of_the_record_holds_is_no_degradation(
    service: InProcess,
) -> None:
    kinds = {category_of(item)[2] for item, _ in scores_of([], some_prefixes(4))}
    other = next(path[2] for path in toy_engine().catalog.categories if path[2] not in kinds)
    answer = await service.recommend("user", n=3, category=other)
    assert (answer["source"], answer["degraded"]) == ("online", False)


async def test_union_ranks_the_record_and_the_models_own_prefixes_together(
    service: InProcess,
) -> None:
    history, finisher, catalog = item_ids(3), toy_engine().finisher, toy_engine().catalog
    rows = [catalog.row(item) or 0 for item in history]
    nodes = finisher.rank_prefixes(finisher.encode(rows), count=NUM_OWN)
    own = [tuple(codes) for codes in catalog.trie.prefixes()[nodes].tolist()]
    recorded = some_prefixes(4)
    expected = scores_of(history, [*recorded, *own])[:15]
    answer = await service.recommend("user", n=15, mode="union")
    assert ids(answer) == [item for item, _ in expected]
    for item in answer["items"]:
        is_recorded = tuple(item["sid"][:2]) in recorded
        assert item["source"] == ("personal" if is_recorded else "online")
        assert (item["path"] is not None) == is_recorded
    assert {item["source"] for item in answer["items"]} == {"personal", "online"}
    assert (answer["source"], answer["degraded"]) == ("personal", False)
    assert answer["generation"]["id"] == GENERATION


async def test_a_union_in_which_no_item_is_the_records_is_online_and_not_degraded(
    service: InProcess,
) -> None:
    recorded = [item for item, _ in scores_of(item_ids(3), some_prefixes(4))]
    answer = await service.recommend("user", n=5, mode="union", exclude=",".join(recorded))
    assert {item["source"] for item in answer["items"]} == {"online"}
    assert (answer["source"], answer["generation"], answer["degraded"]) == ("online", None, False)


async def test_union_of_a_user_without_a_record_is_online(service: InProcess) -> None:
    union = await service.recommend("online", mode="union")
    strict = await service.recommend("online", mode="strict")
    assert ids(union) == ids(strict)
    assert union["source"] == "online"


async def test_the_mode_is_a_setting_and_a_request_may_say_otherwise() -> None:
    store = MemoryStore()
    await give_record(store, "user", new_record(prefixes=some_prefixes(1)))
    await give_history(store, "user", item_ids(3))
    await activate(store, GENERATION)
    async with serving(store, mode="union") as service:
        default = await service.recommend("user", n=5)
        strict = await service.recommend("user", n=5, mode="strict")
        assert ids(default) == ids(await service.recommend("user", n=5, mode="union"))
        assert ids(default) != ids(strict)


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("mode=both", "query.mode"),
        ("category=", "query.category"),
        ("category=" + "x" * 257, "query.category"),
        ("exclude=" + ",".join(["x"] * (MAX_EXCLUDED + 1)), "query.exclude"),
        ("&".join(["exclude=x"] * (MAX_EXCLUDED + 1)), "query.exclude"),
    ],
)
async def test_a_bad_filter_is_422_and_named(service: InProcess, query: str, where: str) -> None:
    answer = await service.client.get(f"/recommend/user?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (422, where)


def test_categories_keep_the_masks_that_were_asked_for_last() -> None:
    catalog = toy_engine().catalog
    categories = Categories(catalog)
    hair = categories.get("Hair")
    assert hair.mask.tolist() == ["Hair" in path for path in catalog.categories]
    popularity = catalog.popularity[hair.rows].tolist()
    assert popularity == sorted(popularity, reverse=True)
    for number in range(MAX_KEPT - 1):
        categories.get(f"none {number}")
    assert categories.get("Hair") is hair
    for number in range(MAX_KEPT):
        categories.get(f"none {number}")
    assert categories.get("Hair") is not hair


def test_popular_items_fill_up_beyond_the_releases_list() -> None:
    """A long history and the exclusions may remove more items than the list holds."""
    engine = toy_engine()
    listed = list(engine.release.popular)
    assert [engine.catalog.item_ids[row] for row in engine.popular_rows][: len(listed)] == listed
    assert sorted(engine.popular_rows) == list(range(len(engine.catalog)))
