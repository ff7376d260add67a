"""A learner that follows a log: slices, restarts, growth and what it publishes."""

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import LeaseTaken
from models.release.live import load_live
from models.release.release import Release
from tests.fakes.toy_learner import (
    ToyWork,
    finish,
    logged,
    pages,
    toy_events,
    weights_of,
)
from training.learn.one_learner import held_alone
from training.learn.weight_learner import Lesson, WeightLearner


@pytest.fixture
def work(release: Release, tmp_path: Path) -> ToyWork:
    return ToyWork(release, tmp_path)


def test_what_is_published_is_what_was_learnt(work: ToyWork, release: Release) -> None:
    follower = work.learn(toy_events(release.catalog, 45))
    pointer = work.live.pointer()
    assert pointer is not None
    assert pointer.watermark == "1044000-0"
    live = load_live(work.live, pointer.version)
    learnt = follower.learner.weights.accepted.arrays()
    assert all(np.array_equal(live.weights[name], value) for name, value in learnt.items())
    assert any((live.weights[name] != value).any() for name, value in base_weights(work).items())
    assert [line["outcome"] for line in work.lines][-1] == "accepted"


def base_weights(work: ToyWork) -> dict[str, NDArray[np.float32]]:
    return work.follower().learner.weights.accepted.arrays()


def test_a_learner_that_starts_again_learns_the_same(
    work: ToyWork, release: Release, tmp_path: Path
) -> None:
    events = toy_events(release.catalog, 60)
    whole = work.learn(events)
    other = ToyWork(release, tmp_path / "other")
    for part in pages(events, 7):  # every process dies without a word
        follower = other.follower()
        follower.start()
        follower.log.append(part)
        follower.take(part)
    finish(follower)
    assert weights_of(follower) == weights_of(whole)


def test_an_event_that_came_twice_is_learnt_once(work: ToyWork, release: Release) -> None:
    events = toy_events(release.catalog, 20)
    again = [
        each._replace(entry=f"{each.arrived_ms + 30_000}-0") for each in events[:10]
    ]  # a client tried again
    known = work.dataset.histories["user-3"][0]
    stale = logged(1_029_000, "user-3", known.item_id)
    stale = stale._replace(event=stale.event._replace(timestamp=known.timestamp))
    twice = work.learn([*events, stale, *again])
    assert sum(twice.learner.popularity.values()) - int(release.catalog.popularity.sum()) == 20
    assert sum(line["events"] for line in work.lines) == 20


def test_erased_users_are_never_learnt(work: ToyWork, release: Release, tmp_path: Path) -> None:
    """Neither their events nor their histories: as if they had never been."""
    events, erased = toy_events(release.catalog, 40), {"user-3", "user-4", "user-5"}
    without = ToyWork(release, tmp_path / "without")
    for user_id in erased:
        del without.dataset.histories[user_id]
    kept = [each for each in events if each.user_id not in erased]
    assert len(kept) < len(events)
    found = work.learn(events, erased=tuple(erased))
    assert weights_of(found) == weights_of(without.learn(kept))


def test_ticks_and_slices_at_once_learn_the_same(
    work: ToyWork, release: Release, tmp_path: Path
) -> None:
    """Counts that are published every second change no weight."""
    events = toy_events(release.catalog, 40)
    other = ToyWork(release, tmp_path / "other")
    follower = other.follower()
    follower.start()
    for at, page in enumerate(pages(events, 1)):
        follower.log.append(page)
        follower.take(page)
        follower.settle(page[0].arrived_ms)
        if at % 4 == 0:
            follower.publish()
    finish(follower)
    at_once = work.learn(events)
    assert weights_of(follower) == weights_of(at_once)
    found, expected = follower.learner.neighbours, at_once.learner.neighbours
    assert found.weight_P.tobytes() == expected.weight_P.tobytes()  # what trials rank with


def test_counts_are_published_while_a_slice_is_learnt(
    work: ToyWork, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, learn = threading.Event(), WeightLearner.learn

    def learn_late(weights: WeightLearner, lesson: Lesson) -> list[float]:
        assert may_end.wait(10)
        return learn(weights, lesson)

    monkeypatch.setattr(WeightLearner, "learn", learn_late)
    events = toy_events(release.catalog, 15)  # the slice of the first ten ends
    follower = work.follower()
    follower.start()
    follower.log.append(events)
    follower.take(events)
    follower.publish()
    pointer = work.live.pointer()
    assert pointer is not None
    assert pointer.watermark == events[-1].entry
    assert not work.lines
    may_end.set()
    finish(follower)
    at_once = ToyWork(release, work.folder / "at once").learn(events)
    assert weights_of(follower) == weights_of(at_once)


def test_a_pointer_that_was_rolled_back_stays_until_a_new_start(
    work: ToyWork, release: Release
) -> None:
    """The new start publishes a base, because deltas of the next numbers have served already."""
    follower = work.learn(toy_events(release.catalog, 40))
    pointer = work.live.pointer()
    assert pointer is not None
    base, deltas, sha256 = work.live.version(pointer.base, 1)
    back = pointer.model_copy(
        update={"epoch": pointer.epoch + 1, "base": base, "deltas": deltas, "sha256": sha256}
    )
    work.live.move(back)
    events = toy_events(release.catalog, 20, seed=1, start_ms=2_000_000)
    follower.log.append(events)
    follower.take(events)
    finish(follower)
    assert work.live.pointer() == back
    assert "the pointer names" in work.lines[-1]["failure"]
    work.follower().start()
    anew = work.live.pointer()
    assert anew is not None
    assert (anew.base != base, anew.deltas) == (True, 0)
    work.live.move(back.model_copy(update={"epoch": anew.epoch + 1}))
    work.follower().start()  # of the same state
    again = work.live.pointer()
    assert again is not None
    assert again.base not in {base, anew.base}


@pytest.mark.parametrize("step", ["add_delta", "move"])
def test_a_full_disk_loses_nothing(
    work: ToyWork, release: Release, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    follower = work.follower()
    follower.start()
    events = toy_events(release.catalog, 40)
    with monkeypatch.context() as patch:
        before = work.live.pointer()
        patch.setattr(work.live, step, full)
        follower.log.append(events)
        follower.take(events)
        assert work.live.pointer() == before
    finish(follower)
    pointer = work.live.pointer()
    assert pointer is not None
    live = load_live(work.live, pointer.version)
    learnt = follower.learner.weights.accepted.arrays()
    assert all((live.weights[name] == value).all() for name, value in learnt.items())
    assert any("No space left" in line.get("failure", "") for line in work.lines)


def test_a_learner_whose_lease_was_taken_publishes_no_more(work: ToyWork, release: Release) -> None:
    """Some file systems carry no locks from host to host."""
    follower = work.learn(toy_events(release.catalog, 20))
    before, file = work.live.pointer(), work.live.path / "learner.lock"
    with held_alone(work.live.path) as mine:
        follower._publisher._guard = mine.check
        file.rename(file.with_suffix(".gone"))
        with held_alone(work.live.path):
            events = toy_events(release.catalog, 5, seed=1, start_ms=2_000_000)
            follower.log.append(events)
            follower.take(events)
            with pytest.raises(LeaseTaken, match="another job took over"):
                follower.publish()
    assert work.live.pointer() == before


def test_a_long_chain_ends_with_a_base(work: ToyWork, release: Release) -> None:
    follower = work.learn(toy_events(release.catalog, 40), most_deltas=3)
    pointer = work.live.pointer()
    assert pointer is not None
    assert len(work.live.bases()) > 1
    assert all(work.live.num_deltas(base) <= 3 for base in work.live.bases())
    live = load_live(work.live, pointer.version)
    assert live.neighbours is not None
    expected = follower.learner.counts.neighbours()
    assert live.neighbours.neighbour_P.tolist() == expected.neighbour_P.tolist()


def test_a_lost_work_folder_and_another_release_begin_with_a_base(
    work: ToyWork, release: Release, tmp_path: Path
) -> None:
    """The published lists must not stay those of a learner that is gone."""
    work.learn(toy_events(release.catalog, 30))
    lost = ToyWork(release, tmp_path / "lost")
    lost.live = work.live
    follower = lost.follower()
    follower.start()
    pointer = work.live.pointer()
    assert pointer is not None
    assert pointer.deltas == 0
    live = load_live(work.live, pointer.version)
    assert live.neighbours is not None
    expected = follower.learner.counts.neighbours()
    assert live.neighbours.neighbour_P.tolist() == expected.neighbour_P.tolist()
    assert live.neighbours.first.tolist() == expected.first.tolist()
