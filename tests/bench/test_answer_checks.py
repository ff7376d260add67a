"""The judge of the chaos scenarios finds every flaw that it is there for, and invents none."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from bench.common.synthetic_users import draw_record, user_id
from bench.load.answer_checks import (
    NUM_PREFIXES,
    NUM_STRANGERS,
    Question,
    Questioner,
    Truth,
    find_flaws,
    num_users_of,
    thought_about,
)
from bench.load.http_connection import Answer
from models.release.release import Release
from models.store.events import HISTORY_LIMIT

NIGHT = 1_700_000_000_000


@pytest.fixture
def truth(release: Release) -> Truth:
    items = release.catalog.item_ids
    num = num_users_of(release)
    return Truth(release, {NIGHT: 0, NIGHT + 1: 1}, [[items[at]] for at in range(num)])


def question(user: int | None = 0, **changes: Any) -> Question:
    name = "stranger1" if user is None else user_id(user)
    return Question("recommend", b"", name, user, 100.0)._replace(**changes)


def item_below(truth: Truth, user: int, *, generation: int = NIGHT, at: int = 0) -> dict[str, Any]:
    """An item of the user's record, as an answer names it, that is not of anybody's history."""
    catalog = truth.release.catalog
    seen = {item for each in truth.histories for item in each}
    found = [
        item
        for item, sid in zip(catalog.item_ids, catalog.sids.tolist(), strict=True)
        if item not in seen and truth.owns(user, generation, sid)
    ]
    return catalog_item(truth, found[at])


def answer(*items: Mapping[str, Any], user: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id(user),
        "source": "personal",
        "degraded": False,
        "generation": {"id": NIGHT},
        "items": list(items),
        "timings_ms": {"store": 0.5},
    } | changes


def test_there_are_users_to_tell_apart_and_none_share_a_prefix(truth: Truth) -> None:
    assert truth.num_users >= 2
    for generation in truth.shifts:
        starts = truth.starts(generation)
        assert len(set(starts)) == truth.num_users
        assert all(start % NUM_PREFIXES == 0 for start in starts)
    assert truth.starts(NIGHT) != truth.starts(NIGHT + 1)


def test_a_record_holds_the_prefixes_that_the_judge_takes_for_the_users(truth: Truth) -> None:
    for user, start in enumerate(truth.starts(NIGHT)):
        record = draw_record(
            truth.release, generation=NIGHT, num_prefixes=NUM_PREFIXES, start=start
        )
        owners = [
            other
            for other in range(truth.num_users)
            if all(truth.owns(other, NIGHT, prefix.codes) for prefix in record.prefixes)
        ]
        assert owners == [user]


def test_an_answer_from_the_users_own_record_has_no_flaw(truth: Truth) -> None:
    text = {"path": 0, "text": thought_about(0)}
    good = answer(item_below(truth, 0), item_below(truth, 0, at=1), paths=[text])
    assert find_flaws(truth, question(), good) == ()


def test_whatever_comes_from_another_users_record_is_foreign(truth: Truth) -> None:
    own, other = item_below(truth, 0), item_below(truth, 1)
    for bad in (
        answer(other),
        answer(own, other),
        answer(own, user_id=user_id(1)),
        answer(own, paths=[{"path": 0, "text": thought_about(1)}]),
        answer(item_below(truth, 0, generation=NIGHT + 1)),  # of another night than it says
        answer(own, generation={"id": NIGHT + 9}),
        answer(own, generation=None),
    ):
        assert "foreign" in find_flaws(truth, question(), bad), bad


def test_an_item_of_a_rung_below_may_have_any_prefix(truth: Truth) -> None:
    other = item_below(truth, 1) | {"source": "online"}
    assert find_flaws(truth, question(), answer(item_below(truth, 0), other)) == ()


def test_a_stranger_gets_nothing_from_any_record(truth: Truth) -> None:
    item = item_below(truth, 0)
    fine = answer(item | {"source": "global"}, generation=None, source="global")
    fine["user_id"] = "stranger1"
    assert find_flaws(truth, question(None), fine) == ()
    assert find_flaws(truth, question(None), fine | {"items": [item]}) == ("foreign",)
    assert find_flaws(truth, question(None), fine | {"generation": {"id": NIGHT}}) == ("foreign",)


def test_illegal_excluded_and_repeated_items_are_found(truth: Truth) -> None:
    item = item_below(truth, 0)
    moved = item | {"sid": [*item["sid"][:2], item["sid"][2] + 1]}
    unknown = item | {"item_id": "nothing"}
    assert find_flaws(truth, question(), answer(moved)) == ("illegal",)
    assert find_flaws(truth, question(), answer(unknown)) == ("illegal",)
    assert find_flaws(truth, question(), answer(item, item)) == ("twice",)
    excluding = question(excluded=frozenset([item["item_id"]]))
    assert find_flaws(truth, excluding, answer(item)) == ("excluded",)


def test_what_was_acknowledged_before_the_question_counts_as_seen(truth: Truth) -> None:
    item = item_below(truth, 0)
    truth.take(0, item["item_id"], 50.0)
    late, early = question(asked_at=51.0), question(asked_at=49.0)
    assert find_flaws(truth, late, answer(item)) == ("seen",)
    assert find_flaws(truth, early, answer(item)) == ()
    # A degraded answer may lack the new event, but not the events from the start.
    assert find_flaws(truth, late, answer(item, degraded=True)) == ()
    start = catalog_item(truth, truth.histories[0][0])
    assert "seen" in find_flaws(truth, late, answer(start, degraded=True))
    # Nor has a degraded rung without a record any history to go by.
    blind = answer(start | {"source": "global"}, degraded=True, source="global", generation=None)
    assert find_flaws(truth, late, blind) == ()
    truth.is_history_certain = False
    assert "seen" not in find_flaws(truth, late, answer(start))


def catalog_item(truth: Truth, item_id: str) -> dict[str, Any]:
    catalog = truth.release.catalog
    row = catalog.row(item_id)
    assert row is not None
    return {"item_id": item_id, "sid": catalog.sids[row].tolist(), "source": "personal"}


def test_questions_are_of_every_kind_and_the_same_for_a_seed(truth: Truth) -> None:
    first, again = Questioner(truth, seed=3), Questioner(truth, seed=3)
    drawn = [first.draw(float(at)) for at in range(2000)]
    assert drawn == [again.draw(float(at)) for at in range(2000)]
    targets = [each.payload.split(b" ")[1] for each in drawn]
    assert any(each.user is None for each in drawn)
    assert {int(each.user_id[8:]) for each in drawn if each.user is None} <= set(
        range(NUM_STRANGERS)
    )
    for word in (b"exclude=", b"explain=true", b"mode=union", b"/events/"):
        assert any(word in target for target in targets), word
    assert any(each.excluded for each in drawn)


def test_an_event_is_taken_into_the_history_once_it_is_acknowledged(truth: Truth) -> None:
    questioner = Questioner(truth, event_share=1.0)
    event = questioner.draw(10.0)
    assert event.event is not None
    assert event.user is not None
    before = dict(truth.seen(event.user))
    questioner.judge(event, Answer(503, b"{}"), 11.0)
    assert truth.seen(event.user) == before
    reply = questioner.judge(event, Answer(202, b"{}"), 12.0)
    assert (reply.status, reply.latency_s) == (202, 2.0)
    assert truth.seen(event.user)[event.event] in (0.0, 12.0)  # 0.0: it was there from the start


def test_a_reply_says_what_the_answer_said(truth: Truth) -> None:
    questioner, body = Questioner(truth), answer(item_below(truth, 0), item_below(truth, 1))
    reply = questioner.judge(question(), Answer(200, json.dumps(body).encode()), 100.25)
    assert (reply.source, reply.generation, reply.flaws) == ("personal", NIGHT, ("foreign",))
    assert (reply.store_ms, reply.latency_s, reply.is_full) == (0.5, 0.25, True)
    lost = questioner.judge(question(), None, 101.0)
    assert (lost.status, lost.flaws, lost.is_full) == (0, (), False)


def test_what_a_full_history_has_forgotten_may_be_recommended_again(truth: Truth) -> None:
    (first,) = truth.seen(0)
    for number in range(HISTORY_LIMIT):
        assert first in truth.seen(0)
        truth.take(0, f"later-{number}", 1.0 + number)
    assert first not in truth.seen(0)
    assert len(truth.seen(0)) == HISTORY_LIMIT
