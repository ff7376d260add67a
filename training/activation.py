"""Reasoning Activation: learn to think from raw histories, then to name the item (Eq. 5).

A `Thinker` writes the thoughts to learn from; on public data the paper takes the category-based
chains of A.1. Item sequences may stay in the mixture, so that the model keeps recommending.
"""

from itertools import islice
from typing import Any

import numpy as np

from training.batching import Row, TokenBatch, batch_rows
from training.checkpoint import Checkpoint
from training.language import LanguageRecipe, train_language
from training.rationale_writers import Thinker
from training.reasoner_recipes import ActivateRecipe
from training.tasks import Tasks


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
