"""Itemic Alignment: the paper's two substages over its four tasks, and what comes before them.

A reasoner from scratch knows no language that a warm-up could protect: `align` gives it the words
and the sequences of its catalog.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.batching import Row, TokenBatch, batch_rows, pack_rows
from training.checkpoint import Checkpoint
from training.language import LanguageRecipe, train_language
from training.learner import Learner, fresh_rows_only, is_adapted
from training.mixture import Mixture, mix
from training.tasks import Tasks


@dataclass(frozen=True)
class AlignRecipe:
    """Passes over each task's rows; one epoch of sequences sees every training item once.

    item_dropout: the share of items left out of a sequence, others in every epoch.
    """

    sequence_epochs: int = 1
    item_dropout: float = 0.0
    interleaved_epochs: int = 3
    caption_epochs: int = 1
    learning_rate: float = 2e-3
    batch_tokens: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class WarmupRecipe:
    """Token Warm-up: `epochs` over the persona texts of all users or as many of them as hold
    `max_tokens`, new token rows alone."""

    epochs: int = 1
    max_tokens: int = 1_000_000_000
    learning_rate: float = 5e-4
    pack_tokens: int = 1024
    batch_tokens: int = 8192


@dataclass(frozen=True)
class IntegrateRecipe:
    """Multi-Task Integration: `tokens` in all, context included, shared out by a Mixture."""

    tokens: int = 40_000_000
    learning_rate: float = 3e-4
    pack_tokens: int = 1024
    batch_tokens: int = 8192


def align(model: Any, tasks: Tasks, recipe: AlignRecipe) -> dict[str, float]:
    """What a model from scratch has instead of a pretraining: captions, interleaved histories and
    item sequences. Trains in place; returns loss, tokens and seconds."""
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
    return train_language(model, batches, LanguageRecipe(recipe.learning_rate), stage="align")


def warm_up(
    learner: Learner, tasks: Tasks, recipe: WarmupRecipe, checkpoint: Checkpoint | None = None
) -> dict[str, float]:
    """First substage: the rows of the fresh tokens learn from persona texts, all else stands
    still (4.1). Returns loss, tokens and seconds."""
    told = (row for _ in range(recipe.epochs) for row in tasks.personas())
    rows = limit_tokens(told, recipe.max_tokens)
    batches = pack_rows(rows, length=recipe.pack_tokens, batch_tokens=recipe.batch_tokens)
    schedule = LanguageRecipe(recipe.learning_rate, weight_decay=0.0)
    with fresh_rows_only(learner):
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
    """Second substage: all four tasks, every weight or LoRA's (A.3.1). Returns loss, tokens and
    seconds."""
    rows = mix(tasks, mixture, recipe.tokens)
    batches = pack_rows(rows, length=recipe.pack_tokens, batch_tokens=recipe.batch_tokens)
    schedule = language_recipe(learner, recipe.learning_rate)
    return train_language(
        learner.model, batches, schedule, stage="integrate", checkpoint=checkpoint
    )


def limit_tokens(rows: Iterator[Row], max_tokens: int) -> Iterator[Row]:
    """Rows from the first on, as many as hold `max_tokens` tokens."""
    num_tokens = 0
    for row in rows:
        num_tokens += len(row.ids)
        if num_tokens > max_tokens:
            return
        yield row


def language_recipe(learner: Learner, learning_rate: float) -> LanguageRecipe:
    """No weight decay beside LoRA, which trains some rows of a matrix and not the others."""
    if is_adapted(learner.model):
        return LanguageRecipe(learning_rate, weight_decay=0.0)
    return LanguageRecipe(learning_rate)
