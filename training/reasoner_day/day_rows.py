"""Texts of a reasoner's day: alignment and activation of new events, and a share of old ones.

The tasks are those that the reasoner went through. Knows tokens; knows nothing of files.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from models.catalog.catalog import Catalog
from training.align import limit_tokens
from training.batching import Row, TokenBatch, batch_rows
from training.mixture import mix
from training.rationale_writers import Thinker
from training.reasoner_day.day_settings import DaySteps
from training.reasoner_day.timeline import Part
from training.reasoner_recipes import Mixture
from training.recipe import Recipe
from training.tasks import Tasks

_ENDLESS = 10**12


def day_batches(
    catalog: Catalog,
    part: Part,
    old_histories: Sequence[Sequence[int]],
    tokenizer: object,
    recipe: Recipe,
    steps: DaySteps,
    *,
    seed: int,
) -> list[TokenBatch]:
    """Return the batches of a part: first those of alignment, then those of activation.

    recipe: of the reasoner: its stages, mixture and thoughts.
    """
    rng = np.random.default_rng(seed)
    most = recipe.reasoner.history
    new = Tasks(
        catalog,
        part.histories,
        tokenizer,
        seed,
        firsts=part.firsts,
        items=part.items,
        most=most,
    )
    long = [rows for rows in old_histories if len(rows) > 1]  # each gives a row of every task
    old = Tasks(catalog, long, tokenizer, seed + 1, most=most)
    thinker = Thinker(recipe.thoughts, seed=seed)
    batches: list[TokenBatch] = []
    for new_tasks, old_tasks in (
        (_alignment(new, recipe, steps.align_passes), _alignment(old, recipe, None)),
        (
            _activation(new, recipe, thinker, steps.activate_passes),
            _activation(old, recipe, thinker),
        ),
    ):
        rows: list[Row] = []
        for of_new, of_old in zip(new_tasks, old_tasks, strict=True):
            rows += (found := list(of_new))
            num_tokens = sum(len(row.ids) for row in found)
            most = round(num_tokens * steps.replay_share / (1 - steps.replay_share))
            rows += limit_tokens(of_old, most) if long else ()
        batches += batch_rows(rows, steps.batch_tokens, rng)
    return batches


def _alignment(tasks: Tasks, recipe: Recipe, passes: int | None) -> list[Iterator[Row]]:
    """Return rows of the tasks that the reasoner was aligned by.

    passes: over all events; None for rows without end.
    """
    if "integrate" in recipe.reasoner.stages and recipe.mixture.preference > 0:
        return [_mixed(tasks, recipe.mixture, passes)]
    kinds: list[Callable[[], Iterator[Row]]] = [tasks.sequences]
    kinds += [tasks.interleaved] if recipe.align.interleaved_epochs else []
    kinds += [tasks.captions] if recipe.align.caption_epochs else []
    return [_passes(kind, passes) for kind in kinds]


def _mixed(tasks: Tasks, mixture: Mixture, passes: int | None) -> Iterator[Row]:
    """Yield rows of the paper's four tasks by their shares; each event is asked for once a pass."""
    if passes is None:
        yield from mix(tasks, mixture, _ENDLESS)
        return
    num_asked = sum(len(row.ids) for row in tasks.preferences())
    if num_asked:
        share = mixture.preference / sum(vars(mixture).values())
        yield from mix(tasks, mixture, round(passes * num_asked / share))


def _activation(
    tasks: Tasks, recipe: Recipe, thinker: Thinker, passes: int | None = None
) -> list[Iterator[Row]]:
    """Return a thought and an item for each user in every pass, if the reasoner thinks at all."""
    if "activate" not in recipe.reasoner.stages:
        return []
    return [_passes(lambda: tasks.rationales(thinker), passes)]


def _passes(source: Callable[[], Iterator[Row]], passes: int | None) -> Iterator[Row]:
    return chain.from_iterable(source() for _ in range(_ENDLESS if passes is None else passes))
