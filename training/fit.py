"""Fit a next-item model: Adam at a constant rate, the best epoch by NDCG@10 of validation users.

The rate is constant, so epoch n is the same for any number of epochs, and a model can be trained
once more on more data for the chosen number. What is judged and kept are averaged weights. After
the recipe with which SASRec beats newer models (Time to Split, 2025; eSASRec, 2025).
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.averaging import AveragedWeights
from training.steps import report_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitRecipe:
    """Settings of fitting; the online recommender and SASRec share them."""

    epochs: int = 100  # at most
    batch_users: int = 256  # random users per step
    learning_rate: float = 1e-3  # of Adam, constant
    evaluate_every: int = 2  # epochs
    patience: int = 5  # evaluations without improvement before training stops
    num_validation_users: int = 5000
    average_steps: int = 500  # the weights are averaged over about as many; 0 takes the last ones
    seed: int = 0


class Scores(NamedTuple):
    """Figures on validation users: the whole catalog is ranked, except items of the history."""

    recall: float  # at 10
    ndcg: float  # at 10


def fit(
    name: str,
    model: nn.Module,
    recipe: FitRecipe,
    losses: Callable[[], Iterable[Tensor]],
    validate: Callable[[], Scores],
) -> dict[str, float]:
    """Train a model in place until NDCG@10 stops rising; it ends with its best weights.

    Args:
        name: of the model, for the log.
        losses: called for each epoch; yields the loss of each step.
        validate: ranks the validation targets.

    Returns:
        `recall@10`, `ndcg@10`, `epoch` and `seconds` of the best epoch.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    averages = AveragedWeights(model, recipe.average_steps)
    best, best_weights = {"ndcg@10": -1.0}, dict[str, Tensor]()
    started = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        loss = _run_epoch(model, optimizer, averages, losses())
        report_step(name, epoch, recipe.epochs)
        if epoch % recipe.evaluate_every and epoch != recipe.epochs:
            continue
        with averages.installed():
            model.eval()
            scores = validate()
            weights = {key: value.clone() for key, value in model.state_dict().items()}
        seconds = round(time.monotonic() - started, 1)
        logger.info(
            "%s epoch %d/%d loss %.3f valid recall@10 %.4f ndcg@10 %.4f  %.0f s",
            name, epoch, recipe.epochs, loss, scores.recall, scores.ndcg, seconds,
        )  # fmt: skip
        if scores.ndcg > best["ndcg@10"]:
            best = {"recall@10": scores.recall, "ndcg@10": scores.ndcg, "epoch": epoch}
            best["seconds"] = seconds
            best_weights = weights
        elif epoch - best["epoch"] >= recipe.patience * recipe.evaluate_every:
            break
    model.load_state_dict(best_weights)
    model.eval()
    return best


def refit(
    name: str,
    model: nn.Module,
    recipe: FitRecipe,
    losses: Callable[[], Iterable[Tensor]],
    *,
    epochs: int,
) -> None:
    """Train a model in place for a known number of epochs, without validation."""
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    averages = AveragedWeights(model, recipe.average_steps)
    started = time.monotonic()
    for epoch in range(1, epochs + 1):
        loss = _run_epoch(model, optimizer, averages, losses())
        seconds = time.monotonic() - started
        report_step(name, epoch, epochs)
        logger.info("%s refit epoch %d/%d loss %.3f  %.0f s", name, epoch, epochs, loss, seconds)
    averages.install()
    model.eval()


def _run_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: AveragedWeights,
    losses: Iterable[Tensor],
) -> float:
    """Take one step per loss; return the mean loss."""
    model.train()
    total, num_steps = 0.0, 0
    for loss in losses:
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        averages.update()
        total += loss.item()
        num_steps += 1
    return total / max(num_steps, 1)
