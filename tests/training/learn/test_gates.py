"""Gates between a candidate and the services, and what a learner does with a refused candidate."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.release.live import load_live
from models.release.release import Release
from tests.fakes.toy_learner import SETTINGS, ToyWork, toy_events, weights_of, with_gates
from training.learn.trial import Answers, Paired
from training.learn.trial_gates import GateSettings, failed_gates, is_slow

GATES = GateSettings(forget_margin=0.01, norm_growth=2.0, young_share=0.5)
TABLE = "code_embeddings.0.weight"
EVEN = Paired(100, 0.0, 0.01)
ANSWERS = Answers([True], 0, 10, 1.0)
ANCHOR = {TABLE: torch.ones(3, 4), "start": torch.ones(4)}


def lines(
    *,
    on_slices: Paired = EVEN,
    on_old: Paired = EVEN,
    answers: Answers = ANSWERS,
    weights: dict[str, Tensor] = ANCHOR,
) -> list[str]:
    return failed_gates(
        GATES,
        on_slices=on_slices,
        on_old=on_old,
        answers=answers,
        weights=weights,
        anchor=ANCHOR,
    )


def test_a_candidate_like_the_old_weights_passes() -> None:
    assert lines() == []
    assert is_slow(GATES, ANSWERS, ANSWERS) is None


def test_each_gate_says_why_in_a_line() -> None:
    far = {**ANCHOR, TABLE: torch.tensor([[1.0] * 4, [9.0] * 4, [1.0] * 4])}
    broken = {**ANCHOR, "start": torch.tensor([1.0, float("nan"), 1.0, 1.0])}
    found = [
        *lines(on_slices=Paired(100, -0.05, 0.02)),
        *lines(on_old=Paired(300, -0.05, 0.02)),
        *lines(answers=ANSWERS._replace(num_young=6)),
        *lines(weights=far),
        *lines(weights=broken),
        is_slow(GATES, ANSWERS._replace(median_ms=4.0), ANSWERS) or "",
    ]
    expected = [
        "new events",
        "old sample -0.05",
        "6 of 10",
        "norm 18",
        "start is not fin",
        "4.00 ms",
    ]
    assert len(found) == len(expected)
    assert all(words in line for words, line in zip(expected, found, strict=True))


def test_a_loss_within_chance_passes() -> None:
    assert lines(on_slices=Paired(20, -0.1, 0.2), on_old=Paired(300, -0.015, 0.01)) == []


@pytest.fixture
def strict(release: Release, tmp_path: Path) -> ToyWork:
    """No candidate may move any weight."""
    return ToyWork(release, tmp_path, with_gates(SETTINGS, norm_growth=1e-3))


def test_a_refused_candidate_is_dropped_and_nothing_of_it_is_published(
    strict: ToyWork, release: Release
) -> None:
    before = strict.follower().learner.weights.accepted.weights
    follower = strict.learn(toy_events(release.catalog, 40))
    refused = [line for line in strict.lines if line["outcome"] == "refused"]
    assert len(refused) > 1
    assert "norm" in refused[0]["failed"][0]
    assert follower.refusals
    after = follower.learner.weights.candidate.weights
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    pointer = strict.live.pointer()
    assert pointer is not None
    live = load_live(strict.live, pointer.version)
    assert all((live.weights[name] == value.numpy()).all() for name, value in before.items())
    assert live.neighbours is not None  # counts go on
    assert live.neighbours.weight_P.tobytes() != release_weights(release)


def release_weights(release: Release) -> bytes:
    neighbours = release.load_neighbours()
    assert neighbours is not None
    return neighbours.weight_P.tobytes()


def test_a_slow_candidate_is_kept_but_not_published(release: Release, tmp_path: Path) -> None:
    work = ToyWork(release, tmp_path / "slow", with_gates(SETTINGS, slowdown=0.0))
    quick = ToyWork(release, tmp_path / "quick")
    events = toy_events(release.catalog, 40)
    slow = work.learn(events)
    assert weights_of(slow) == weights_of(quick.learn(events))
    assert all("finish takes" in line for line in slow.refusals)
    pointer = work.live.pointer()
    assert pointer is not None
    live = load_live(work.live, pointer.version)
    base = work.follower().learner.weights.accepted.arrays()
    assert all((live.weights[name] == value).all() for name, value in base.items())
