"""Live recall: which events judge which answers, and the comparison of two shares."""

import pytest

from models.store.events import Event
from models.store.model_pointer import LiveVersion
from service.users.local_state import LiveHits
from training.learn.live_comparison import Share, describe

NOW = 1_000_000.0
SHOWN = [f"item-{at}" for at in range(12)]
CANARY = LiveVersion("0" * 12, 0, "")


def event(item_id: str, *, later_s: float = 1.0) -> Event:
    return Event(item_id, int(NOW + later_s), "e")


def counts(hits: LiveHits) -> dict[str, tuple[int, int]]:
    return {model: (hits.num_hits[model], num) for model, num in hits.num_judged.items()}


def test_the_first_event_behind_an_answer_judges_its_first_ten_items() -> None:
    hits = LiveHits(100)
    for user, item in (("a", "item-9"), ("b", "item-10"), ("c", "item-0")):
        hits.show(user, "own", SHOWN, now_s=NOW)
        hits.judge(user, [event(item), event("item-1")], now_s=NOW + 1)
        hits.judge(user, [event("item-1")], now_s=NOW + 2)  # its answer is judged already
    hits.judge("nobody", [event("item-1")], now_s=NOW)
    assert counts(hits) == {"own": (2, 3)}


def test_old_answers_and_older_events_judge_nothing() -> None:
    hits = LiveHits(100)
    hits.show("a", "own", SHOWN, now_s=NOW)
    hits.judge("a", [event("item-1", later_s=-3600)], now_s=NOW + 1)  # an import
    hits.judge("a", [event("item-1")], now_s=NOW + 7200)
    assert counts(hits) == {}
    hits.show("b", "own", SHOWN, now_s=NOW)
    hits.judge("b", [event("item-99", later_s=-3600), event("item-1")], now_s=NOW + 1)
    assert counts(hits) == {"own": (1, 1)}


def test_at_most_so_many_answers_are_remembered() -> None:
    hits = LiveHits(10)
    for user in range(30):
        hits.show(f"user-{user}", "own", SHOWN, now_s=NOW)
    for user in range(30):
        hits.judge(f"user-{user}", [event("item-1")], now_s=NOW)
    assert counts(hits) == {"own": (10, 10)}


def test_counts_begin_again_with_each_canary_and_stay_behind_it() -> None:
    hits = LiveHits(100)
    for canary, model, expected in (
        (None, "own", {"own": (1, 1)}),
        (CANARY, "canary", {"canary": (1, 1)}),
        (CANARY, "own", {"canary": (1, 1), "own": (1, 1)}),
        (None, "own", {"canary": (1, 1), "own": (2, 2)}),
        (CANARY._replace(base="1" * 12), "canary", {"canary": (1, 1)}),
    ):
        hits.follow(canary)
        hits.show("a", model, SHOWN, now_s=NOW)
        hits.judge("a", [event("item-1")], now_s=NOW)
        assert counts(hits) == expected


def test_two_shares_and_their_difference() -> None:
    """The interval is that of example (a) in Newcombe's paper: 56 of 70, and 48 of 80."""
    assert describe(Share(48, 80), Share(56, 70)) == (
        "recall@10 of the next event: canary 0.8000 of 70, others 0.6000 of 80: "
        "+0.2000 (+0.0524 to +0.3339)"
    )
    assert Share(0, 10).interval() == pytest.approx((0, 0.2775), abs=1e-4)
