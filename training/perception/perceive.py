"""Perception: train on the tasks of the recipe's table `[perception]`, in one mixture.

It may stand before Reasoning Activation, as OneReason has it. Behind it, it brings back forgotten
tasks, while thoughts stay in the mixture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.catalog.catalog import Catalog
from training.align import language_recipe
from training.batching import pack_rows
from training.checkpoint import Checkpoint
from training.language import train_language
from training.learner import Learner
from training.mixture import Source, mix_sources
from training.perception.perception_recipes import PerceiveRecipe, PerceptionMixture

_MOST_WARMUP_STEPS = 50
_SEED_OF_HELD_OUT = 1  # of `bench understanding`


def perceive(
    learner: Learner,
    sources: Mapping[str, Source],
    recipe: PerceiveRecipe,
    mixture: PerceptionMixture,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train in place; return loss, tokens and seconds."""
    rows = mix_sources(sources, vars(mixture), recipe.tokens)
    batches = pack_rows(rows, length=recipe.pack_tokens, batch_tokens=recipe.batch_tokens)
    schedule = replace(
        language_recipe(learner, recipe.learning_rate),
        warmup_steps=min(_MOST_WARMUP_STEPS, max(1, len(batches) // 10)),
    )
    return train_language(learner.model, batches, schedule, stage="perceive", checkpoint=checkpoint)


def held_out_items(num_items: int, count: int) -> list[int]:
    """Return the catalog rows without words to learn, as `bench understanding` draws them."""
    order = np.random.default_rng(_SEED_OF_HELD_OUT).permutation(num_items)
    rows: list[int] = order[:count].tolist()
    return rows


def without_words(catalog: Catalog, rows: Sequence[int]) -> Catalog:
    """Return the catalog without titles, brands and descriptions of some rows.

    Categories stay, as thoughts name them.
    """
    hidden = set(rows)

    def shown(texts: tuple[str | None, ...]) -> tuple[str | None, ...]:
        return tuple(None if row in hidden else text for row, text in enumerate(texts))

    return replace(
        catalog,
        titles=shown(catalog.titles),
        brands=shown(catalog.brands),
        descriptions=shown(catalog.descriptions),
    )
