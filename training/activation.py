"""Reasoning Activation: learn to think from raw histories, then to name the item (Eq. 5).

A `Thinker` writes the thoughts to learn from; on public data the paper takes the category-based
chains of A.1. Item sequences may stay in the mixture, so that the model keeps recommending.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from training.batching import Row, TokenBatch, batch_rows
from training.checkpoint import Checkpoint
from training.language import LanguageRecipe, train_language
from training.rationale_writers import Thinker
from training.tasks import Tasks


@dataclass(frozen=True)
class ActivateRecipe:
    """Settings of Reasoning Activation."""

    rationale_epochs: int = 4  # passes over the users; each pass cuts every history at random
    max_rows: int = 1_000_000_000  # rationales per pass, at most
    sequence_epochs: int = 1  # the first passes, which get item sequences too
    learning_rate: float = 1e-3
    batch_tokens: int = 4096
    seed: int = 0


def activate(
    model: Any,
    tasks: Tasks,
    recipe: ActivateRecipe,
    *,
    thinker: Thinker | None = None,
    schedule: LanguageRecipe | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Train in place; return loss, tokens and seconds.

    thinker: writes the thoughts; None for category chains. schedule: replaces the learning rate of
    the recipe.
    """
    rng = np.random.default_rng(recipe.seed)
    batches: list[TokenBatch] = []
    for epoch in range(recipe.rationale_epochs):
        rows: list[Row] = list(islice(tasks.rationales(thinker), recipe.max_rows))
        rows += tasks.sequences() if epoch < recipe.sequence_epochs else ()
        batches += batch_rows(rows, recipe.batch_tokens, rng)
    schedule = schedule or LanguageRecipe(recipe.learning_rate)
    return train_language(model, batches, schedule, stage="activate", checkpoint=checkpoint)
