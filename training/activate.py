"""Reasoning Activation: learn to think from raw histories, then to name the item (Eq. 5).

On public data the rationales are the category-based chains of A.1, made for every cut of a training
history; item sequences stay in the mixture so that the recommender is not forgotten.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.language import LanguageRecipe, train_language
from training.tasks import Row, Tasks, TokenBatch, batch_rows


@dataclass(frozen=True)
class ActivateRecipe:
    """Passes over the users; each pass cuts every training history anew."""

    rationale_epochs: int = 4
    sequence_epochs: int = 1
    learning_rate: float = 1e-3
    batch_tokens: int = 4096
    seed: int = 0


def activate(model: Any, tasks: Tasks, recipe: ActivateRecipe) -> dict[str, float]:
    """Train in place; returns loss, tokens and seconds."""
    rng = np.random.default_rng(recipe.seed)
    batches: list[TokenBatch] = []
    for epoch in range(recipe.rationale_epochs):
        rows: list[Row] = list(tasks.rationales())
        rows += tasks.sequences() if epoch < recipe.sequence_epochs else ()
        batches += batch_rows(rows, recipe.batch_tokens, rng)
    return train_language(model, batches, LanguageRecipe(recipe.learning_rate), stage="activate")
