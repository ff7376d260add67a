"""Selection of thoughts: samples after which the target is likelier than without any thought.

A learner thinks about each history some times. Of the thoughts that raise log P(target's prefix)
over the empty thought, the best one is kept, for Reasoning Activation to learn.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.reasoner.next_items import score_codes
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import TransformersReasoner
from training.bootstrap import read_answers
from training.reasoner_recipes import SelectRecipe
from training.steps import report_step


class Cut(NamedTuple):
    """A history with its target, the last item."""

    history: int  # its index
    rows: tuple[int, ...]  # catalog rows


def select_thoughts(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    cuts: Sequence[Cut],
    recipe: SelectRecipe,
    file: Path,
    *,
    most: int,
    seed: int,
) -> dict[str, Any]:
    """Write the kept thoughts to `file`, as bootstrapping does; a killed run goes on.

    most: newest items of a history that the reasoner reads. Returns the numbers of thoughts and of
    those that raise the likelihood, and mean rises in nats.
    """
    answered = read_answers(file)
    first = len(answered)
    with file.open("a") as out:
        for start in range(first, len(cuts), recipe.batch_users):
            batch = cuts[start : start + recipe.batch_users]
            answers = _ask(reasoner, catalog, batch, recipe, most, seed)
            out.write("".join(f"{json.dumps(answer)}\n" for answer in answers))
            out.flush()
            answered += answers
            report_step("select", len(answered), len(cuts), first=first)
    rises = np.array([rise for answer in answered for rise in answer["rises"]])
    kept = [max(answer["rises"]) for answer in answered if answer["text"] is not None]
    return {
        "asked": len(answered),
        "kept": len(kept),
        "thoughts": len(rises),
        "rising": int((rises > 0).sum()),
        "mean_rise": round(float(rises.mean()), 4) if len(rises) else 0.0,
        "mean_rise_of_kept": round(float(np.mean(kept)), 4) if kept else 0.0,
    }


def _ask(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    batch: Sequence[Cut],
    recipe: SelectRecipe,
    most: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return, per history, the thought that raises the likelihood most (or None), and all rises."""
    asked = [render_history(catalog, one.rows[:-1][-most:]) for one in batch]
    depth = catalog.space.prefix_depth
    wanted_UD = catalog.sids[[one.rows[-1] for one in batch], :depth].astype(np.int64)
    empty_U = score_codes(reasoner.recite(asked, [[""]] * len(asked)).scorer(), wanted_UD)[:, -1]
    seeds = [(seed << 32) + one.history for one in batch]
    thoughts = reasoner.think(asked, paths=recipe.tries, seeds=seeds)
    closed = [len(texts) for texts in thoughts.texts]
    wanted_RD = np.repeat(wanted_UD, closed, axis=0)
    rise_R = score_codes(thoughts.scorer(), wanted_RD)[:, -1] - np.repeat(empty_U, closed)
    answers, at = [], 0
    for one, texts in zip(batch, thoughts.texts, strict=True):
        rises = rise_R[at : at + len(texts)].round(4).tolist()
        at += len(texts)
        best = max(rises, default=0.0)
        text = texts[rises.index(best)] if best > 0 else None
        answers.append(
            {"history": one.history, "cut": len(one.rows) - 1, "text": text, "rises": rises}
        )
    return answers
