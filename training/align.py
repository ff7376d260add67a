"""Itemic Alignment: the paper's two substages over its four tasks, and pretraining for `nano`.

A reasoner from scratch has no language that a warm-up could protect. Instead, `align` teaches it
the words and the item sequences of its catalog.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from training.batching import Row, TokenBatch, batch_rows, pack_rows
from training.checkpoint import Checkpoint
from training.language import LanguageRecipe, train_language
from training.learner import Learner, is_adapted, token_rows_only
from training.mixture import mix
from training.reasoner_recipes import AlignRecipe, IntegrateRecipe, Mixture, WarmupRecipe
from training.tasks import Tasks


def align(
    model: Any, tasks: Tasks, recipe: AlignRecipe, *, micro_tokens: int = 0
) -> dict[str, float]:
    """Pretrain a model from scratch on captions, interleaved histories and item sequences.

    Trains in place; returns loss, tokens and seconds.
    """
    rng = np.random.default_rng(recipe.seed)
    epochs = max(recipe.sequence_epochs, recipe.interleaved_epochs, recipe.caption_epochs)
    batches: list[TokenBatch] = []
    for epoch in range(epochs):
        rows: list[Row] = []
        if epoch < recipe.sequence_epochs:
            rows += tasks.sequences(item_dropout=recipe.item_dropout)
        rows += tasks.interleaved() if epoch < recipe.interleaved_epochs else ()
        rows += tasks.captions() if epoch < recipe.caption_epochs else ()
        batches += batch_rows(rows, recipe.batch_tokens, rng)
    schedule = LanguageRecipe(recipe.learning_rate, micro_tokens=micro_tokens)
    return train_language(model, batches, schedule, stage="align")


def warm_up(
    learner: Learner, tasks: Tasks, recipe: WarmupRecipe, checkpoint: Checkpoint | None = None
) -> dict[str, float]:
    """First substage: train only the learner's token rows, on persona texts (4.1).

    Returns loss, tokens and seconds.
    """
    personas = (row for _ in range(recipe.epochs) for row in tasks.personas())
    rows = limit_tokens(personas, recipe.max_tokens)
    batches = pack_rows(rows, length=recipe.pack_tokens, batch_tokens=recipe.batch_tokens)
    schedule = replace(language_recipe(learner, recipe.learning_rate), weight_decay=0.0)
    with token_rows_only(learner):
        return train_language(
            learner.model, batches, schedule, stage="warmup", checkpoint=checkpoint
        )


def integrate(
    learner: Learner,
    tasks: Tasks,
    recipe: IntegrateRecipe,
    mixture: Mixture,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Second substage: train all weights, or LoRA's, on all four tasks (A.3.1).

    Returns loss, tokens and seconds.
    """
    rows = mix(tasks, mixture, recipe.tokens)
    batches = pack_rows(rows, length=recipe.pack_tokens, batch_tokens=recipe.batch_tokens)
    schedule = language_recipe(learner, recipe.learning_rate)
    return train_language(
        learner.model, batches, schedule, stage="integrate", checkpoint=checkpoint
    )


def limit_tokens(rows: Iterator[Row], max_tokens: int) -> Iterator[Row]:
    """Yield rows until the next one would exceed `max_tokens` in total."""
    num_tokens = 0
    for row in rows:
        num_tokens += len(row.ids)
        if num_tokens > max_tokens:
            return
        yield row


def language_recipe(learner: Learner, learning_rate: float) -> LanguageRecipe:
    """Return the schedule of a learner, for LoRA without weight decay.

    Decay would pull the trained token rows to zero, away from those beside them.
    """
    schedule = LanguageRecipe(learning_rate, micro_tokens=learner.hardware.micro_tokens)
    return replace(schedule, weight_decay=0.0) if is_adapted(learner.model) else schedule
