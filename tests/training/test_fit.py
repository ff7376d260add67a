"""Fitting: the best epoch is kept, training stops in time, and a refit equals the same epoch.

A training that was killed continues after its last whole epoch, and ends as if it never was.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint
from training.fit import fit, refit
from training.online_recipes import FitRecipe
from training.scores import Scores


class Slope(nn.Module):
    """One weight, which every step moves up."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def losses(self, epoch: int) -> Iterator[Tensor]:
        assert epoch >= 1
        for _ in range(10):
            yield -self.weight


@pytest.fixture
def model() -> Slope:
    return Slope()


def test_the_weights_of_the_best_epoch_are_kept(model: Slope) -> None:
    figures = iter([0.1, 0.4, 0.3, 0.2])
    seen: list[float] = []

    def validate() -> Scores:
        seen.append(model.weight.item())
        return Scores(recall=0.9, ndcg=next(figures))

    recipe = FitRecipe(epochs=4, evaluate_every=1)
    best = fit("slope", model, recipe, model.losses, validate)
    assert (best["epoch"], best["ndcg@10"], best["recall@10"]) == (2, 0.4, 0.9)
    assert model.weight.item() == seen[1]
    assert len(set(seen)) == 4
    assert not model.training


def test_training_stops_after_the_patience(model: Slope) -> None:
    figures = [0.2, 0.3, 0.1, 0.1, 0.9]
    num_seen = 0

    def validate() -> Scores:
        nonlocal num_seen
        num_seen += 1
        return Scores(recall=0.0, ndcg=figures[num_seen - 1])

    recipe = FitRecipe(epochs=50, evaluate_every=2, patience=2)
    assert fit("slope", model, recipe, model.losses, validate)["epoch"] == 4
    assert num_seen == 4


def test_the_last_epoch_is_always_judged(model: Slope) -> None:
    recipe = FitRecipe(epochs=3, evaluate_every=2)
    figures = iter([0.1, 0.2])
    best = fit("slope", model, recipe, model.losses, lambda: Scores(0.0, next(figures)))
    assert best["epoch"] == 3


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_refit_equals_the_same_epoch_of_a_longer_fit(epochs: int) -> None:
    fitted, refitted = Slope(), Slope()
    figures = iter([0.1 * (at == epochs) for at in range(1, 6)])
    recipe = FitRecipe(epochs=5, evaluate_every=1)
    fit("slope", fitted, recipe, fitted.losses, lambda: Scores(0.0, next(figures)))
    refit("slope", refitted, recipe, refitted.losses, epochs=epochs)
    assert fitted.weight.item() == refitted.weight.item() != 0


class Killed(Exception):
    pass


class Noisy(nn.Module):
    """A layer with dropout, whose losses depend on random numbers."""

    def __init__(self, killed_in: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self._killed_in = killed_in

    def losses(self, epoch: int) -> Iterator[Tensor]:
        for step in range(6):
            if step == 3 and epoch == self._killed_in:
                raise Killed
            yield self.layer(torch.rand(8, 4)).square().mean()

    def figure(self) -> Scores:
        """Return the best figure for weights of a middling size."""
        size = sum(weight.square().sum().item() for weight in self.parameters())
        return Scores(size, -abs(size - 0.1))


_NOISY = FitRecipe(epochs=30, evaluate_every=2, patience=2, learning_rate=0.02, average_steps=5)


def run_fit(model: Noisy, checkpoint: Checkpoint) -> dict[str, float]:
    best = fit("noisy", model, _NOISY, model.losses, model.figure, checkpoint=checkpoint)
    best.pop("seconds")
    return best


def run_refit(model: Noisy, checkpoint: Checkpoint) -> dict[str, float]:
    refit("noisy", model, _NOISY, model.losses, epochs=9, checkpoint=checkpoint)
    return {}


@pytest.mark.parametrize("killed_in", [1, 2, 5, 8])
@pytest.mark.parametrize("run", [run_fit, run_refit])
def test_a_killed_training_ends_as_if_it_never_was(
    run: Callable[[Noisy, Checkpoint], dict[str, float]], killed_in: int, tmp_path: Path
) -> None:
    whole, killed = Noisy(), Noisy(killed_in)
    expected = run(whole, Checkpoint(tmp_path / "whole", "x"))
    checkpoint = Checkpoint(tmp_path / "killed", "x")
    with pytest.raises(Killed):
        run(killed, checkpoint)
    resumed = Noisy()
    assert run(resumed, checkpoint) == expected
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_training_that_had_stopped_is_not_trained_further(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "ended", "x")
    expected = run_fit(Noisy(), checkpoint)
    assert expected["epoch"] < _NOISY.epochs - 4
    assert run_fit(Noisy(killed_in=_NOISY.epochs), checkpoint) == expected
