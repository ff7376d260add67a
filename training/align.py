"""Itemic Alignment: captions, interleaved histories and item sequences in one next-token stage.

The warm-up of new token rows alone, and the paper's four-task mixture, belong to pretrained bases;
the from-scratch reasoner has nothing to protect, so all its weights train from the first step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.language import LanguageRecipe, train_language
from training.tasks import Row, Tasks, TokenBatch, batch_rows


@dataclass(frozen=True)
class AlignRecipe:
    """Passes over each task's rows; one epoch of sequences sees every training item once."""

    sequence_epochs: int = 1
    interleaved_epochs: int = 3
    caption_epochs: int = 1
    learning_rate: float = 2e-3
    batch_tokens: int = 4096
    seed: int = 0


def align(model: Any, tasks: Tasks, recipe: AlignRecipe) -> dict[str, float]:
    """Train in place; returns loss, tokens and seconds."""
    rng = np.random.default_rng(recipe.seed)
    epochs = max(recipe.sequence_epochs, recipe.interleaved_epochs, recipe.caption_epochs)
    batches: list[TokenBatch] = []
    for epoch in range(epochs):
        rows: list[Row] = []
        rows += tasks.sequences() if epoch < recipe.sequence_epochs else ()
        rows += tasks.interleaved() if epoch < recipe.interleaved_epochs else ()
        rows += tasks.captions() if epoch < recipe.caption_epochs else ()
        batches += batch_rows(rows, recipe.batch_tokens, rng)
    return train_language(model, batches, LanguageRecipe(recipe.learning_rate), stage="align")
