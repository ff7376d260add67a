"""Reasoning Activation: learn to think from raw histories, then to name the item (Eq. 5).

What a thought says is the thinker's: on public data the paper takes the category-based chains of
A.1. Item sequences may stay in the mixture so that the recommender is not forgotten.
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
    """Passes over the users, or as many of them as `max_rows`; each pass cuts every training
    history anew."""

    rationale_epochs: int = 4
    max_rows: int = 1_000_000_000
    sequence_epochs: int = 1
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
    """Train in place; returns loss, tokens and seconds.

    thinker: writes the thoughts; category chains without one. schedule: instead of the recipe's
    learning rate.
    """
    rng = np.random.default_rng(recipe.seed)
    batches: list[TokenBatch] = []
    for epoch in range(recipe.rationale_epochs):
        rows: list[Row] = list(islice(tasks.rationales(thinker), recipe.max_rows))
        rows += tasks.sequences() if epoch < recipe.sequence_epochs else ()
        batches += batch_rows(rows, recipe.batch_tokens, rng)
    schedule = schedule or LanguageRecipe(recipe.learning_rate)
    return train_language(model, batches, schedule, stage="activate", checkpoint=checkpoint)
