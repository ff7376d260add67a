"""Specialise by category, then unify on verified hits (OneReason).

A specialist is a copy of the learner that Reasoning Enhancement trains on the histories of one
category. Its thoughts that help are collected: the target is among the beams after the thought,
and is more likely than after no thought. The learner then learns the thoughts of all specialists.
"""

# R = thoughts of a batch

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.reasoner.beam import beam_search
from models.reasoner.next_items import score_codes
from models.reasoner.prompts import THINK_END, TURN_END
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from training.align import language_recipe
from training.batching import Row, batch_rows
from training.checkpoint import Checkpoint
from training.enhance import enhance
from training.language import train_language
from training.learner import Learner, plain_model
from training.reasoner_recipes import EnhanceRecipe, UnifyRecipe

Histories = list[list[int]]  # catalog rows, oldest first; the last one is the target
_LEAST_GAIN = 0.01  # of a thought that helps, in log-probability; less may be rounding
_BATCH = 16  # histories that are thought about together


class Hits(NamedTuple):
    """Thoughts of one specialist."""

    sampled: int
    rows: list[Row]  # prompt, thought and target, for thoughts that were verified


def split_by_category(
    catalog: Catalog, histories: Sequence[Sequence[int]], num: int
) -> dict[str, Histories]:
    """Group histories of two items or more by the category of their target.

    The `num` categories of most targets have a group each; all others share the group "other".
    """
    named = [(category(catalog, rows[-1]), list(rows)) for rows in histories if len(rows) > 1]
    counts = Counter(name for name, _ in named)
    kept = sorted(counts, key=lambda name: (-counts[name], name))[:num]
    groups: dict[str, Histories] = {}
    for name, rows in named:
        groups.setdefault(name if name in kept else "other", []).append(rows)
    return dict(sorted(groups.items()))


def category(catalog: Catalog, row: int) -> str:
    """Return the second level of an item's category path; the first is common to nearly all."""
    path = catalog.categories[row]
    return path[min(1, len(path) - 1)] if path else "none"


def specialise_and_unify(
    learner: Learner,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    recipe: UnifyRecipe,
    enhancement: EnhanceRecipe,
    max_tokens: int,
    checkpoint: Checkpoint | None = None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Train the learner in place; return thoughts and hits by category, loss, tokens, seconds.

    enhancement: of the specialists; `recipe` decides their reward and their steps.
    """
    groups = split_by_category(catalog, histories, recipe.categories)
    found = {
        name: _specialist_hits(learner, catalog, group, recipe, enhancement, max_tokens, seed)
        for name, group in groups.items()
    }
    made: dict[str, Any] = {
        "categories": {
            name: {"histories": len(groups[name]), "sampled": hits.sampled, "hits": len(hits.rows)}
            for name, hits in found.items()
        }
    }
    rows = [row for hits in found.values() for row in hits.rows]
    if not rows:
        return {**made, "rows": 0}
    rng = np.random.default_rng(seed)
    mixed = [*rows, *_silent(rows, learner.tokenizer, recipe.silent_share, rng)]
    batches = [
        batch for _ in range(recipe.epochs) for batch in batch_rows(mixed, recipe.batch_tokens, rng)
    ]
    schedule = language_recipe(learner, recipe.learning_rate)
    trained = train_language(learner.model, batches, schedule, stage="unify", checkpoint=checkpoint)
    return {**made, "rows": len(mixed), **trained}


def _specialist_hits(
    learner: Learner,
    catalog: Catalog,
    histories: Histories,
    recipe: UnifyRecipe,
    enhancement: EnhanceRecipe,
    max_tokens: int,
    seed: int,
) -> Hits:
    """Train a specialist on histories, and collect its verified thoughts about them."""
    specialist = replace(learner, model=copy.deepcopy(learner.model))
    settings = replace(enhancement, reward=recipe.reward, max_steps=recipe.steps)
    if recipe.steps:
        enhance(specialist, catalog, histories, settings, max_tokens, seed=seed)
    order = np.random.default_rng(seed).permutation(len(histories))[: recipe.prompts].tolist()
    return verified_hits(
        specialist, catalog, [histories[at] for at in order], settings, max_tokens, seed=seed
    )


def verified_hits(
    learner: Learner,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    recipe: EnhanceRecipe,
    max_tokens: int,
    *,
    seed: int,
) -> Hits:
    """Sample thoughts about histories without their targets, and keep the helpful ones."""
    sampling = Sampling(recipe.temperature, max_tokens=max_tokens)
    reasoner = TransformersReasoner(
        plain_model(learner.model), learner.tokenizer, catalog.space, sampling
    )
    rows: list[Row] = []
    for start in range(0, len(histories), _BATCH):
        chunk = histories[start : start + _BATCH]
        seeds = [(seed << 32) + start + at for at in range(len(chunk))]
        rows += _hits_of(reasoner, catalog, chunk, recipe, seeds)
    return Hits(len(histories) * recipe.group, rows)


def _hits_of(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    recipe: EnhanceRecipe,
    seeds: Sequence[int],
) -> Iterator[Row]:
    asked = [render_history(catalog, history[:-1]) for history in histories]
    targets = catalog.sids[[history[-1] for history in histories]].astype(np.int64)
    thoughts = reasoner.think(asked, paths=recipe.group, seeds=seeds)
    closed = [at for at, path in enumerate(thoughts.sampled) if path[-1] == reasoner.think_end]
    of_R = np.array([at // recipe.group for at in closed], dtype=np.int64)
    silent = score_codes(reasoner.recite(asked, [[""]] * len(asked)).scorer(), targets)[:, -1]
    gain_R = score_codes(thoughts.scorer(), targets[of_R])[:, -1] - silent[of_R]
    beams = beam_search(
        thoughts.scorer(), catalog.trie, depth=catalog.space.levels, width=recipe.beams
    )
    encode = reasoner.tokenizer.encode
    for at, of, found, gain in zip(closed, of_R.tolist(), beams, gain_R.tolist(), strict=True):
        target = tuple(targets[of].tolist())
        if gain > _LEAST_GAIN and target in {beam.codes for beam in found}:
            context = encode(asked[of], add_special_tokens=False)
            answer = f"{catalog.space.text(target)}{TURN_END}"
            ids = [*context, *thoughts.sampled[at], *encode(answer, add_special_tokens=False)]
            yield Row(ids, len(context))


def _silent(
    rows: Sequence[Row], tokenizer: Any, share: float, rng: np.random.Generator
) -> list[Row]:
    """Return rows without their thoughts, so that recommending at once stays learnt.

    share: of all rows.
    """
    end = tokenizer.convert_tokens_to_ids(THINK_END)
    num = min(len(rows), round(len(rows) * share / (1 - share)))
    chosen = [rows[at] for at in rng.permutation(len(rows))[:num].tolist()]
    return [
        Row(row.ids[: row.num_context] + row.ids[row.ids.index(end) :], row.num_context)
        for row in chosen
    ]
