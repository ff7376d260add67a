"""A learner that follows a log: slices, restarts, growth and what it publishes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.release.live import load_live
from models.release.release import Release
from tests.fakes.toy_learner import (
    ToyWork,
    finish,
    pages,
    toy_events,
    weights_of,
)


@pytest.fixture
def work(release: Release, tmp_path: Path) -> ToyWork:
    return ToyWork(release, tmp_path)


def test_what_is_published_is_what_was_learnt(work: ToyWork, release: Release) -> None:
    follower = work.learn(toy_events(release.catalog, 45))
    pointer = work.live.pointer()
    assert pointer is not None
    assert pointer.watermark == "1044000-0"
    live = load_live(work.live, pointer.version)
    learnt = follower.learner.accepted.arrays()
    assert all(np.array_equal(live.weights[name], value) for name, value in learnt.items())
    assert any((live.weights[name] != value).any() for name, value in base_weights(work).items())
    assert [line["outcome"] for line in work.lines][-1] == "accepted"


def base_weights(work: ToyWork) -> dict[str, NDArray[np.float32]]:
    return work.follower().learner.accepted.arrays()


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
