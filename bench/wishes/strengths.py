"""Strengths of a wish compared on validation users, with the topics and wordings that are for it.

In one process: the online model and its memory, the whole catalog, no night.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from bench.common.leave_one_out import Case, cut_histories
from bench.common.results import Row
from bench.wishes.judges import draw_topics, judge_topic, topics_of
from bench.wishes.wordings import TUNING
from models.catalog.dataset import Dataset
from models.online.finish import Finisher
from models.online.memory.tree_memory import NightBonus
from models.release.release import Release
from models.release.searchers import FASTEST, load_finisher
from models.store.wish_turns import WishTurn
from models.wishes.dialogue import understand
from models.wishes.effect import Effect, effect_of
from models.wishes.names import Names

STRENGTHS = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0, 40.0)
_TOP = 10


def choose_strength(release: Release, dataset: Dataset, options: argparse.Namespace) -> list[Row]:
    """Return a row a strength: share that fits a topic from elsewhere, and recall of the next item.

    recall_other: under a wish for a topic from elsewhere. recall_true: under a wish for the kind
    of the next item.
    """
    catalog, names = release.catalog, Names(release.catalog)
    finisher = load_finisher(release, FASTEST)
    cases = cut_histories(
        dataset, catalog, split="valid", num_users=options.users, seed=options.seed
    )
    cases = [case for case in cases if case.target is not None and case.seen]
    topics = draw_topics(catalog, held_out=False)
    rng = np.random.default_rng(options.seed)
    others = [
        str(rng.choice([each for each in topics if each not in own]))
        for own in (set(topics_of(catalog, case.seen, topics)) for case in cases)
    ]
    kinds = [catalog.categories[case.target or 0][-1] for case in cases]
    rows: list[Row] = []
    for strength in STRENGTHS:
        other = _tops(
            finisher, cases, [_effect(each, at, names) for at, each in enumerate(others)], strength
        )
        true = _tops(
            finisher, cases, [_effect(each, at, names) for at, each in enumerate(kinds)], strength
        )
        fits = [
            np.mean([judge_topic(catalog, topic).by_category(row) for row in top])
            for topic, top in zip(others, other, strict=True)
        ]
        rows.append(
            {
                "name": f"{strength:g} nats",
                "users": len(cases),
                "share": float(np.mean(fits)),
                "recall_other": _recall(cases, other),
                "recall_true": _recall(cases, true),
            }
        )
    return rows


def _effect(topic: str, at: int, names: Names) -> Effect:
    text = TUNING[at % len(TUNING)].format(topic=topic.lower())
    return effect_of(understand([WishTurn(text, 0)], names), names)


def _tops(
    finisher: Finisher, cases: Sequence[Case], effects: Sequence[Effect], strength: float
) -> list[list[int]]:
    found = []
    for case, effect in zip(cases, effects, strict=True):
        bonus = NightBonus(effect.row_R, strength * effect.fit_R) if strength else None
        state = finisher.encode(case.seen[-finisher.window :])
        top = finisher.finish(state, finisher.whole, k=_TOP, exclude=case.seen, night=bonus)
        found.append([each.row for each in top])
    return found


def _recall(cases: Sequence[Case], tops: Sequence[Sequence[int]]) -> float:
    return float(np.mean([case.target in top for case, top in zip(cases, tops, strict=True)]))
