"""Fitting: the best epoch is kept, training stops in time, and a refit equals the same epoch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from training.fit import FitRecipe, Scores, fit, refit


class Slope(nn.Module):
    """One weight, which every step moves up."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def losses(self) -> Iterator[Tensor]:
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
