"""Fit a next-item model: Adam at a constant rate, the best epoch by NDCG@10 of validation users.

The rate is constant, so epoch n is the same for any number of epochs, and a model can be trained
once more on more data for the chosen number. What is judged and kept are averaged weights. After
the recipe with which SASRec beats newer models (Time to Split, 2025; eSASRec, 2025).
"""

import logging
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from training.averaging import AveragedWeights
from training.checkpoint import Checkpoint, Progress
from training.online_recipes import FitRecipe
from training.scores import Scores
from training.steps import report_step

logger = logging.getLogger(__name__)

Losses = Callable[[int], Iterable[Tensor]]  # yields the loss of each step of an epoch, from 1
_FAR = 1_000_003  # between the seeds of two trainings, more than epochs


def fit(
    name: str,
    model: nn.Module,
    recipe: FitRecipe,
    losses: Losses,
    validate: Callable[[], Scores],
    *,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Train a model in place until NDCG@10 stops rising; it ends with its best weights.

    Args:
        name: of the model, for the log.
        losses: must depend on the epoch and on torch's random numbers alone.
        validate: ranks the validation targets.
        checkpoint: written after every epoch; training continues from it.

    Returns:
        `recall@10`, `ndcg@10`, `epoch` and `seconds` of the best epoch.
    """
    training = _Training(name, model, recipe, checkpoint)
    for epoch in training.epochs_left(recipe.epochs):
        if training.has_stopped():
            break
        loss = training.run_epoch(epoch, recipe.epochs, losses)
        if epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs:
            training.judge(epoch, loss, validate)
        training.save()
    return training.end_with_best()


def refit(
    name: str,
    model: nn.Module,
    recipe: FitRecipe,
    losses: Losses,
    *,
    epochs: int,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train a model in place for a known number of epochs, without validation."""
    training = _Training(name, model, recipe, checkpoint)
    for epoch in training.epochs_left(epochs):
        loss = training.run_epoch(epoch, epochs, losses)
        logger.info(
            "%s refit epoch %d/%d loss %.3f  %.0f s",
            name, epoch, epochs, loss, training.seconds,
        )  # fmt: skip
        training.save()
    training.end_with_average()


class _Training:
    """A model in training: its optimizer, its averages, its best weights, and where it stands."""

    def __init__(
        self, name: str, model: nn.Module, recipe: FitRecipe, checkpoint: Checkpoint | None
    ) -> None:
        self._name, self._model, self._recipe = name, model, recipe
        self._checkpoint = checkpoint
        self._optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        self._averages = AveragedWeights(model, recipe.average_steps)
        self._best = {key: value.clone() for key, value in model.state_dict().items()}
        resumed = checkpoint and checkpoint.resume(self._tensors(), self._optimizer)
        self._progress = resumed or Progress()
        if resumed:
            logger.info("%s goes on after epoch %d", name, resumed.step)

    @property
    def seconds(self) -> float:
        return self._progress.seconds

    def epochs_left(self, total: int) -> range:
        return range(self._progress.step + 1, total + 1)

    def has_stopped(self) -> bool:
        """Tell if the figures have not risen for as long as the patience lasts."""
        figures = self._progress.series.get("ndcg@10", [])
        return bool(figures) and len(figures) - 1 - _best(figures) >= self._recipe.patience

    def run_epoch(self, epoch: int, total: int, losses: Losses) -> float:
        """Take one step per loss; return the mean loss."""
        started = time.monotonic()
        torch.manual_seed(self._recipe.seed * _FAR + epoch)
        self._model.train()
        summed, num_steps = 0.0, 0
        for loss in losses(epoch):
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            self._averages.update()
            summed += loss.item()
            num_steps += 1
        self._progress.step = epoch
        self._progress.seconds += time.monotonic() - started
        report_step(self._name, epoch, total)
        return summed / max(num_steps, 1)

    def judge(self, epoch: int, loss: float, validate: Callable[[], Scores]) -> None:
        """Judge the averaged weights, and keep them if no others were as good."""
        started, progress = time.monotonic(), self._progress
        with self._averages.installed():
            self._model.eval()
            scores = validate()
            progress.seconds += time.monotonic() - started
            for name, value in (
                ("epoch", epoch),
                ("seconds", progress.seconds),
                ("recall@10", scores.recall),
                ("ndcg@10", scores.ndcg),
            ):
                progress.add(name, value)
            figures = progress.series["ndcg@10"]
            if _best(figures) == len(figures) - 1:
                self._best = {key: value.clone() for key, value in self._model.state_dict().items()}
        logger.info(
            "%s epoch %d/%d loss %.3f valid recall@10 %.4f ndcg@10 %.4f  %.0f s",
            self._name, epoch, self._recipe.epochs, loss, *scores, progress.seconds,
        )  # fmt: skip

    def save(self) -> None:
        if self._checkpoint:
            self._checkpoint.save(self._tensors(), self._optimizer, self._progress)

    def end_with_best(self) -> dict[str, float]:
        """Leave the best weights in the model; return their figures."""
        self._model.load_state_dict(self._best)
        self._model.eval()
        series = self._progress.series
        at = _best(series["ndcg@10"])
        best = {name: series[name][at] for name in ("recall@10", "ndcg@10")}
        return best | {
            "epoch": int(series["epoch"][at]),
            "seconds": round(series["seconds"][at], 1),
        }

    def end_with_average(self) -> None:
        self._averages.install()
        self._model.eval()

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that a training has learnt, for a checkpoint."""
        parts = {
            "model": self._model.state_dict(),
            "best": self._best,
            "average": self._averages.tensors(),
        }
        return {f"{part}/{key}": value for part, own in parts.items() for key, value in own.items()}


def _best(figures: list[float]) -> int:
    """Return the place of the highest figure, the first of equal ones."""
    return figures.index(max(figures))
