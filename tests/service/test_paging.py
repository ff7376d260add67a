"""Pages of one list: no item twice and none left out, also if users or layers change."""

import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from models.errors import CursorGone, InvalidCursor
from service.recommend.engine import Engine
from service.recommend.pages import LIFETIME_S, MAX_CURSOR_CHARS, MAX_SHOWN, Cursor, Cursors, digest
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_record,
    item_ids,
    new_record,
    serving,
    toy_engine,
)

QUERY, RELEASE = digest(b"asked"), digest(b"release")
SOME = Cursor(1000, 7, GENERATION, QUERY, RELEASE, digest(b"click"), (3, 1, 4, 1_000_000))


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"manifest_poll_ms": 60_000}


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def ask(service: InProcess, path: str, **params: Any) -> httpx.Response:
    return await service.client.get(path, params=params)


@pytest.mark.parametrize("params", [{}, {"mode": "union"}, {"exclude_seen": "false"}])
@pytest.mark.parametrize("user", ["user", "nobody"])
async def test_pages_are_the_slices_of_one_long_answer(
    service: InProcess, user: str, params: dict[str, Any]
) -> None:
    whole = await service.recommend(user, n=60, **params)
    found, ranks = [], []
    cursor: dict[str, Any] = {}
    for n in (10, 7, 20, 23):
        page = await service.recommend(user, n=n, **params, **cursor)
        found += ids(page)
        ranks += [item["rank"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert found == ids(whole)
    assert ranks == list(range(1, 61))


async def test_a_list_ends_when_everything_was_shown_once(service: InProcess) -> None:
    found: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await service.recommend("user", n=30, **cursor)
        found += ids(page)
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    seen = set(item_ids(3))
    assert sorted(found) == sorted(set(toy_engine().catalog.item_ids) - seen)


async def test_events_between_two_pages_move_nothing(
    service: InProcess, store: MemoryStore
) -> None:
    whole = ids(await service.recommend("user", n=30))
    first = await service.recommend("user", n=10)
    clicked = [whole[2], whole[12]]  # one that was shown, one that would come
    for item in clicked:
        await service.client.post("/v1/events/user", json={"item_id": item})
    second = await service.recommend("user", n=10, cursor=first["next_cursor"])
    third = await service.recommend("user", n=9, cursor=second["next_cursor"])
    rest = [item for item in whole[10:] if item not in clicked]
    assert ids(second) + ids(third) == rest  # items seen in between stay out
    assert ids(await service.recommend("user", n=10)) != ids(first)


async def test_pages_of_a_user_without_anything_survive_a_first_event(service: InProcess) -> None:
    whole = ids(await service.recommend("nobody", n=20))
    first = await service.recommend("nobody", n=10)
    await service.client.post("/v1/events/nobody", json={"item_id": item_ids(1)[0]})
    second = await service.recommend("nobody", n=10, cursor=first["next_cursor"])
    assert ids(first) + ids(second) == whole
    assert second["source"] == "global"


async def test_a_page_keeps_its_generation_under_a_new_delta(
    service: InProcess, store: MemoryStore
) -> None:
    whole = ids(await service.recommend("user", n=20))
    first = await service.recommend("user", n=10)
    await give_record(store, "user", new_record(generation=GENERATION + 1, prefixes=[]))
    await activate(store, GENERATION + 1, GENERATION, epoch=2)
    await service.serving.manifest.poll()
    second = await service.recommend("user", n=10, cursor=first["next_cursor"])
    assert ids(first) + ids(second) == whole
    assert second["generation"]["id"] == GENERATION


async def test_a_generation_that_is_gone_is_410(service: InProcess, store: MemoryStore) -> None:
    first = await service.recommend("user")
    await give_record(store, "user", new_record(generation=GENERATION + 1))
    await activate(store, GENERATION + 1, epoch=2)
    await service.serving.manifest.poll()
    answer = await ask(service, "/v1/recommend/user", cursor=first["next_cursor"])
    assert_gone(answer, "generation")
    again = await service.recommend("user")
    assert again["generation"]["id"] == GENERATION + 1


def assert_gone(answer: httpx.Response, word: str) -> None:
    assert (answer.status_code, answer.json()["title"]) == (410, "Gone")
    assert word in answer.json()["detail"]
    assert "begin again" in answer.json()["detail"]


async def test_a_process_that_is_behind_continues_what_one_ahead_began(store: MemoryStore) -> None:
    await give_record(store, "user", new_record())
    secret: Any = {"cursor_secret": "shared between processes"}
    async with serving(store, manifest_poll_ms=60_000, **secret) as behind:
        await activate(store, GENERATION)
        async with serving(store, **secret) as ahead:
            first = await ahead.recommend("user", n=5)
            second = await behind.recommend("user", n=5, cursor=first["next_cursor"])
            whole = await ahead.recommend("user", n=10)
    assert second["source"] == "personal"
    assert ids(first) + ids(second) == ids(whole)


async def test_another_release_is_410(service: InProcess) -> None:
    first = await service.recommend("user")
    other = Engine(replace(toy_engine().release, version="other"), toy_engine().finisher)
    service.serving._engines.own = other
    answer = await ask(service, "/recommend/user", cursor=first["next_cursor"])
    assert_gone(answer, "release")


async def test_no_item_comes_twice_when_the_store_goes_away(
    service: InProcess, store: MemoryStore
) -> None:
    first = await service.recommend("user", n=20)
    other = await service.recommend("nobody", n=20)
    store.is_away = True
    for user, page in (("user", first), ("nobody", other)):
        second = await service.recommend(user, n=20, cursor=page["next_cursor"])
        assert len(second["items"]) == 20
        assert set(ids(second)).isdisjoint(ids(page))


async def test_a_page_does_not_replace_the_last_good_copy(
    service: InProcess, store: MemoryStore
) -> None:
    """A page reads an older generation, or none; the copy for an outage stays the newest."""
    first = await service.recommend("user", n=5)
    await give_record(store, "user", new_record(generation=GENERATION + 1))
    await activate(store, GENERATION + 1, GENERATION, epoch=2)
    await service.serving.manifest.poll()
    await service.recommend("user")
    await service.recommend("user", n=5, cursor=first["next_cursor"])
    store.is_away = True
    assert (await service.recommend("user"))["generation"]["id"] == GENERATION + 1


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/recommend/nobody", {}),
        ("/recommend/user", {"category": "Hair"}),
        ("/recommend/user", {"exclude": "item-1"}),
        ("/recommend/user", {"exclude_seen": "false"}),
        ("/recommend/user", {"mode": "union"}),
    ],
)
async def test_a_cursor_is_for_the_request_that_it_was_given_to(
    service: InProcess, path: str, params: dict[str, str]
) -> None:
    first = await service.recommend("user")
    answer = await ask(service, path, cursor=first["next_cursor"], **params)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error == {
        "where": "query.cursor",
        "what": "given for another user or other filters than these",
    }


async def test_a_tampered_cursor_is_refused(service: InProcess) -> None:
    cursor = (await service.recommend("user"))["next_cursor"]
    flipped = ("B" if cursor[30] == "A" else "A").join((cursor[:30], cursor[31:]))
    for bad in (flipped, cursor[:-4], "AAAA", "no base64!", "é", "x" * 8192):
        answer = await ask(service, "/v1/recommend/user", cursor=bad)
        assert answer.status_code == 422, bad
        assert answer.json()["errors"][0]["where"] == "query.cursor"
    assert (await ask(service, "/v1/recommend/user", cursor="x" * 8193)).status_code == 422


def test_a_cursor_reads_back_as_it_was_written() -> None:
    cursors = Cursors("a secret of many letters")
    for cursor in (SOME, SOME._replace(generation=None, newest_event=None, shown=())):
        assert cursors.read(cursors.write(cursor), now_s=1000, query=QUERY) == cursor


def test_every_changed_byte_is_noticed() -> None:
    cursors = Cursors("a secret of many letters")
    written = cursors.write(SOME)
    for at, letter in enumerate(written[:-1]):  # the last one has spare bits
        changed = written[:at] + ("A" if letter != "A" else "B") + written[at + 1 :]
        with pytest.raises(InvalidCursor):
            cursors.read(changed, now_s=0, query=QUERY)


def test_processes_share_a_secret_or_refuse_each_other() -> None:
    written = Cursors("a secret of many letters").write(SOME)
    assert Cursors("a secret of many letters").read(written, now_s=0, query=QUERY) == SOME
    for other in (Cursors("another secret of letters"), Cursors(None)):
        with pytest.raises(InvalidCursor):
            other.read(written, now_s=0, query=QUERY)


async def test_an_expired_cursor_is_410(store: MemoryStore) -> None:
    cursors = Cursors(None)
    with pytest.raises(CursorGone):
        cursors.read(cursors.write(SOME), now_s=SOME.expires_at + 1, query=QUERY)
    async with serving(store) as service:
        service.serving.pipeline._wall = lambda: time.time() - LIFETIME_S - 10
        first = await service.recommend("user")
        answer = await ask(service, "/v1/recommend/user", cursor=first["next_cursor"])
        assert_gone(answer, "1800 s old")


def test_the_longest_cursor_is_accepted_in_a_query() -> None:
    shown = tuple(range(MAX_SHOWN))
    assert len(Cursors(None).write(SOME._replace(shown=shown))) < MAX_CURSOR_CHARS
