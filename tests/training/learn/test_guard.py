"""Limits of one user and one item, and the fate of a poisoned slice."""

from pathlib import Path

import pytest

from models.release.release import Release
from models.store.contract import Logged
from tests.fakes.toy_learner import SLICE_MS, ToyWork, logged, toy_events
from training.learn.guard import Guard, GuardSettings

START = 1_000_000
SETTINGS = GuardSettings(user_events=3, item_events=4, item_share=0.5)


def admitted(events: list[Logged]) -> list[bool]:
    guard = Guard(SETTINGS, SLICE_MS)
    return [guard.admits(each) for each in events]


def test_a_user_adds_so_many_events_a_slice() -> None:
    events = [logged(START, "user", f"item-{at}", number=at) for at in range(5)]
    events += [logged(START + SLICE_MS, "user", "item-0")]
    assert admitted(events) == [True, True, True, False, False, True]


def test_an_item_gets_so_many_events_a_slice_or_a_share_of_the_slice_before() -> None:
    before = [logged(START, f"user-{at}", f"item-{at}", number=at) for at in range(12)]
    now = [logged(START + SLICE_MS, f"user-{at}", "item-0", number=at) for at in range(8)]
    assert admitted(now) == [True] * 4 + [False] * 4
    assert admitted(before + now)[12:] == [True] * 6 + [False] * 2


def test_a_clock_that_jumps_back_opens_no_new_slice() -> None:
    events = [logged(START + SLICE_MS, "user", "a", number=at) for at in range(3)]
    assert admitted([*events, logged(START, "user", "a")])[-1] is False


def test_a_clock_that_stands_still_opens_a_new_slice_after_the_second() -> None:
    """All events have one time of arrival while a store waits for its clock."""
    guard, events = (
        Guard(SETTINGS, SLICE_MS),
        [logged(START, "user", "a", number=at) for at in range(4)],
    )
    assert [guard.admits(each) for each in events] == [True, True, True, False]
    guard.take_held()
    assert not guard.admits(events[0])
    guard.take_held()
    assert guard.admits(events[0])
    assert guard.take_held().num_events == 0


@pytest.mark.parametrize("is_one_user", [True, False])
def test_ten_thousand_events_on_one_item_are_held_back_in_one_line(
    release: Release, tmp_path: Path, *, is_one_user: bool
) -> None:
    """One client, under one name or under many."""
    work, item = ToyWork(release, tmp_path), release.catalog.item_ids[7]
    honest = toy_events(release.catalog, 20)
    poison = [
        logged(START + 12_000, "bad" if is_one_user else f"bad-{at}", item, number=at + 1)
        for at in range(10_000)
    ]
    events = sorted([*honest, *poison], key=lambda each: each.arrived_ms)
    follower = work.learn(events)
    counted = follower.learner.popularity[item] - release.catalog.popularity[7]
    assert counted <= follower.learner.settings.guard.item_events + 20
    (line,) = [line for line in work.lines if line.get("held")]
    assert ("user ('bad'" if is_one_user else f"item ({item!r}") in line["held"]
    assert line["loss"] is None  # the weights learn nothing of this slice
