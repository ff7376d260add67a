"""Offered items: each checked alone, in the feed in their order, 503 without the store."""

from typing import Any

import pytest

from models.catalog.fed_items import MAX_ITEM_BYTES, FedItem
from models.errors import InvalidRecord
from models.store.contract import BEGINNING
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import InProcess, item_ids


@pytest.fixture
def users() -> None:
    """The store is empty."""


async def test_good_items_reach_the_feed_and_bad_ones_fail_alone(
    service: InProcess, store: MemoryStore
) -> None:
    known = item_ids(1)[0]
    soap = {"item_id": "soap", "title": " Soap ", "categories": ["Bath", "Soaps"], "brand": ""}
    offered: list[dict[str, Any]] = [
        soap,
        {"item_id": ""},
        {"item_id": "x", "title": "t" * 1001},
        {"item_id": "x", "categories": ["c"] * 17},
        {"item_id": "x", "description": "\N{SNOWMAN}" * 10_000, "title": "\N{SNOWMAN}" * 1000},
        {"item_id": known, "withdrawn": True},
    ]
    answer = await service.client.post("/v1/items", json={"items": offered})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [each["status"] for each in results] == [202, 422, 422, 422, 422, 202]
    assert [each.get("known") for each in results] == [False, *[None] * 4, True]
    assert f"expected at most {MAX_ITEM_BYTES}" in results[4]["detail"]
    assert (await store.read_items(BEGINNING, 9)).items == (
        FedItem(item_id="soap", title="Soap", categories=("Bath", "Soaps")),
        FedItem(item_id=known, withdrawn=True),
    )


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": [{"item_id": "x", "price": 1}]}])
async def test_a_body_of_another_form_is_refused(service: InProcess, body: object) -> None:
    assert (await service.client.post("/v1/items", json=body)).status_code == 422


async def test_no_item_is_taken_while_the_store_is_away(
    service: InProcess, store: MemoryStore
) -> None:
    store.is_away = True
    answer = await service.client.post("/v1/items", json={"items": [{"item_id": "x"}]})
    assert answer.status_code == 503


async def test_a_thousand_items_go_in_one_body(service: InProcess, store: MemoryStore) -> None:
    items = [{"item_id": f"item {at}", "title": "x" * 900} for at in range(1000)]
    answer = await service.client.post("/v1/items", json={"items": items})
    assert {each["status"] for each in answer.json()["results"]} == {202}
    assert len((await store.read_items(BEGINNING, 5000)).items) == 1000


def test_a_line_of_a_feed_may_have_categories_as_a_path() -> None:
    line = b'{"item_id": "a", "categories": "Bath > Soaps", "title": "  "}'
    assert FedItem.decode(line) == FedItem(item_id="a", categories=("Bath", "Soaps"))
    assert FedItem.decode(FedItem.decode(line).encode()) == FedItem.decode(line)
    for damaged in (
        b"",
        b"{}",
        b'{"item_id": 5}',
        b'{"item_id": "a\\u0000"}',
        b"[" * 99,
        b" " * 40_000,
    ):
        with pytest.raises(InvalidRecord, match="item: "):
            FedItem.decode(damaged)
