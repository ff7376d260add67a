"""Recommendations for posted histories, sessions, long lists and batches of users."""

from typing import Any

import pytest

from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    give_history,
    item_ids,
    scores_of,
    serving,
    some_prefixes,
    toy_engine,
)


async def post(service: InProcess, path: str, **body: Any) -> Any:
    answer = await service.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def ranking(answer: dict[str, Any]) -> list[tuple[str, str, float | None]]:
    """Items, sources, rounded scores: extended histories round differently from encoded ones."""
    return [
        (item["item_id"], item["source"], item["score"] and round(item["score"], 4))
        for item in answer["items"]
    ]


async def test_a_history_of_the_callers_own_is_ranked_like_a_stored_one(
    service: InProcess, store: MemoryStore
) -> None:
    history = item_ids(3)
    answer = await post(service, "/v1/recommend", history=history, n=5)
    await give_history(store, "other", history)
    stored = await service.recommend("other", n=5)
    assert (answer["user_id"], answer["source"]) == (None, "online")
    assert ranking(answer) == ranking(stored)
    assert list(answer) == list(stored)


async def test_timestamps_of_an_own_history_reorder_it(service: InProcess) -> None:
    a, b, c = item_ids(3)
    mixed = [{"item_id": c, "timestamp": 30}, {"item_id": a, "timestamp": 10}, b]
    shown = await post(service, "/v1/recommend", history=mixed)
    in_order = await post(service, "/v1/recommend", history=[a, b, c])
    assert ranking(shown) == ranking(in_order)
    other = await post(service, "/v1/recommend", history=[c, b, a])
    assert shown["items"] != other["items"]


async def test_an_empty_own_history_is_answered_from_the_release(service: InProcess) -> None:
    answer = await post(service, "/v1/recommend", history=["nothing-we-sell"])
    assert (answer["source"], answer["degraded"]) == ("global", False)


async def test_a_session_counts_on_top_of_the_stored_history(service: InProcess) -> None:
    new = toy_engine().catalog.item_ids[0]
    answer = await post(service, "/v1/recommend", user_id="user", session=[{"item_id": new}], n=100)
    expected = scores_of([*item_ids(3), new], some_prefixes())
    assert answer["source"] == "personal"
    personal = [i["item_id"] for i in answer["items"] if i["source"] == "personal"]
    assert personal == [item for item, _ in expected]
    assert new not in ids(answer)
    assert new in ids(await service.recommend("user", n=100, exclude_seen="false"))  # not stored


async def test_a_session_event_that_is_stored_too_counts_once(service: InProcess) -> None:
    new = toy_engine().catalog.item_ids[0]
    event = {"item_id": new, "event_id": "click", "timestamp": 5000}
    before = await post(service, "/v1/recommend", user_id="user", session=[event])
    await post(service, "/v1/events/user", **event)
    after = await post(service, "/v1/recommend", user_id="user", session=[event])
    assert ranking(before) == ranking(after)


async def test_a_long_list_is_left_out_and_the_answer_still_filled(service: InProcess) -> None:
    everything = toy_engine().catalog.item_ids
    kept = set(everything[::20]) - set(item_ids(3))
    listed = [item for item in everything if item not in kept]
    listed += [f"unknown-{at}" for at in range(2000 - len(listed))]
    answer = await post(service, "/v1/recommend", user_id="user", exclude=listed, n=len(kept))
    assert sorted(ids(answer)) == sorted(kept)
    too_long = await service.client.post(
        "/v1/recommend", json={"user_id": "user", "exclude": [*listed, "one-more"]}
    )
    assert too_long.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "user", "session": [{"item_id": item_ids(1)[0], "timestamp": 9000}]},
        {"history": item_ids(2)},
    ],
)
async def test_posted_lists_have_pages_too(service: InProcess, body: dict[str, Any]) -> None:
    whole = await post(service, "/v1/recommend", **body, n=20)
    first = await post(service, "/v1/recommend", **body, n=10)
    second = await post(service, "/v1/recommend", **body, n=10, cursor=first["next_cursor"])
    assert ids(first) + ids(second) == ids(whole)
    other = await service.client.post(
        "/v1/recommend", json={"history": item_ids(1), "cursor": first["next_cursor"]}
    )
    assert other.json()["errors"][0]["where"] == "body.cursor"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 5},
        {"user_id": "user", "history": []},
        {"user_id": "a\x00b"},
        {"user_id": ""},
        {"user_id": "é" * 129},
        {"history": [""]},
        {"history": ["x"] * 257},
        {"history": [{"item_id": "x", "timestamp": -1}]},
        {"user_id": "user", "session": [{"item_id": "x"}] * 101},
        {"user_id": "user", "session": [{"item_id": "x\x00"}]},
        {"user_id": "user", "n": 101},
        {"user_id": "user", "colour": "red"},
    ],
)
async def test_a_body_that_cannot_be_meant_is_refused(
    service: InProcess, body: dict[str, Any]
) -> None:
    answer = await service.client.post("/v1/recommend", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["where"].startswith("body")


async def test_a_batch_answers_each_user_as_alone(service: InProcess) -> None:
    answer = await post(service, "/v1/recommend:batch", user_ids=["user", "nobody"], n=3)
    assert [entry["user_id"] for entry in answer["results"]] == ["user", "nobody"]
    for entry in answer["results"]:
        alone = await service.recommend(entry["user_id"], n=3)
        assert entry["status"] == 200
        assert ranking(entry["recommendation"]) == ranking(alone)
        assert list(entry["recommendation"]) == list(alone)


async def test_a_bad_user_of_a_batch_fails_alone(service: InProcess) -> None:
    users = ["user", "", "a\x07b", "x" * 257, "nobody"]
    answer = await post(service, "/v1/recommend:batch", user_ids=users)
    assert [entry["status"] for entry in answer["results"]] == [200, 422, 422, 422, 200]
    assert "control character" in answer["results"][2]["detail"]
    assert "recommendation" not in answer["results"][2]


async def test_a_bug_with_one_user_of_a_batch_leaves_the_others_alone() -> None:
    class Picky(MemoryStore):
        async def before_read(self, user_id: str) -> None:
            if user_id == "cursed":
                raise RuntimeError("internals")

    async with serving(Picky()) as service:
        answer = await post(service, "/v1/recommend:batch", user_ids=["cursed", "nobody"])
        assert [entry["status"] for entry in answer["results"]] == [500, 200]
        assert "internals" not in str(answer)


async def test_a_batch_takes_a_hundred_users_and_no_more(service: InProcess) -> None:
    users = [f"user-{at}" for at in range(100)]
    answer = await post(service, "/v1/recommend:batch", user_ids=users, n=100)
    assert len(answer["results"]) == 100
    more = await service.client.post("/v1/recommend:batch", json={"user_ids": [*users, "x"]})
    assert more.status_code == 422


async def test_a_batch_that_runs_out_of_time_is_answered_all_the_same(service: InProcess) -> None:
    answer = await service.client.post(
        "/v1/recommend:batch",
        json={"user_ids": ["user"] * 50},
        headers={"X-Request-Timeout-Ms": "1"},
    )
    entries = answer.json()["results"]
    assert [entry["status"] for entry in entries] == [200] * 50
    assert entries[-1]["recommendation"]["source"] == "popular"
