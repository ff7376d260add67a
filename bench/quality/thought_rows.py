"""Rows of `bench quality` that need a reasoner: thinks, or reads the cache, and ranks.

Knows releases, thoughts and the console. Knows nothing of the rows that need no reasoner.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.results import open_progress
from bench.quality.quality_options import read_settings
from bench.quality.ranking.evaluation import Evaluation
from bench.quality.ranking.night_rows import CaseNights, RecordedRow, describe_records
from bench.quality.ranking.plain_rows import rank_plain
from bench.quality.ranking.quality_rows import FUSED, SILENT_PREFIXES, THOUGHTS, Outcome
from bench.quality.ranking.row_sets import learn_night
from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import Thoughts, without_thought
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.reasoner.rationales import ground
from models.release.release import Release
from models.release.searchers import load_finisher


@dataclass(frozen=True)
class ThoughtRows:
    """Outcomes of the rows, and facts about the thoughts behind them."""

    outcomes: dict[str, Outcome]
    has_own_prefix_U: NDArray[np.float64]  # of the online model, as many as C_u has
    meta: dict[str, Any]


def rank_thoughts(
    console: Console,
    options: argparse.Namespace,
    release: Release,
    dataset: Dataset,
    cases: Sequence[Case],
) -> ThoughtRows:
    """Compute the rows of the reasoner and of both tiers, with C_u as a night chooses it.

    A release without a memory takes no night: C_u is that of its thoughts.
    """
    settings = read_settings(options)
    cache = ThoughtCache.open(options.cache, release, settings)
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    silent = without_thought(settings, Manner(options.at_once))
    at_once_cache = ThoughtCache.open(options.cache, release, silent)
    at_once = think_cases(console, at_once_cache, cases, workers=options.workers)
    day_before = None
    if options.day_before:
        day_before = think_day_before(console, cache, cases, thoughts, workers=options.workers)
    finisher = load_finisher(release)
    meta: dict[str, Any] = {}
    night, outcomes, others = thoughts, dict[str, Outcome](), dict[str, Thoughts]()
    if finisher.takes_nights:
        nights = CaseNights.of(finisher, learn_night(release, dataset))
        night = nights.choose(cases, thoughts)
        others = {THOUGHTS: thoughts, SILENT_PREFIXES: nights.without_thoughts(cases)}
        outcomes, meta = _rank_fused(console, nights, cases, night)
        if day_before is not None:
            earlier = [case.day_before() for case in cases]
            day_before = nights.choose(earlier, day_before)
    evaluation = Evaluation(finisher, release.catalog, cases, night, at_once, day_before, others)
    with open_progress(console, "ranking both tiers", len(cases)) as on_progress:
        outcomes |= evaluation.rank_all(seed=options.seed, on_progress=on_progress)
    meta |= {
        "settings": settings.to_json(),
        "without_thought": silent.to_json(),
        "thoughts": describe_thoughts(thoughts),
        "grounding": describe_grounding(release.catalog, cases, thoughts),
    }
    if day_before is not None:
        new = sum(not case.day_before().history.rows for case in cases)
        meta["users_without_a_day_before"] = new
    return ThoughtRows(outcomes, evaluation.has_own_prefix_U, meta)


def _rank_fused(
    console: Console, nights: CaseNights, cases: Sequence[Case], night: Thoughts
) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Rank by the records of a night; also return what they take."""
    records = {
        case.history.user_id: nights.record(case, user)
        for case, user in zip(cases, night.users, strict=True)
    }
    ranker = RecordedRow(nights.finisher, records)
    catalog = nights.finisher.catalog
    with open_progress(console, "ranking by records", len(cases)) as on_progress:
        found = rank_plain({FUSED: ranker}, catalog, cases, on_progress=on_progress)
    return found, {"records": describe_records(records)}


def think_day_before(
    console: Console,
    cache: ThoughtCache,
    cases: Sequence[Case],
    thoughts: Thoughts,
    *,
    workers: int,
) -> Thoughts:
    """Think again about every user whose target shares a day with the history.

    The night before knew nothing of that day. All other users keep their `thoughts`.
    """
    earlier = [case.day_before() for case in cases if case.is_same_day]
    found = think_cases(console, cache, earlier, workers=workers)
    by_user = {user.user_id: user for user in found.users}
    users = [by_user.get(user.user_id, user) for user in thoughts.users]
    return Thoughts(users, thoughts.seconds + found.seconds)


def describe_thoughts(thoughts: Thoughts) -> dict[str, float]:
    """Return totals of a night: closed and dropped paths, tokens, seconds over all workers."""
    return {
        "paths": sum(len(user.texts) for user in thoughts.users),
        "dropped_paths": sum(user.dropped_paths for user in thoughts.users),
        "tokens": sum(user.tokens for user in thoughts.users),
        "seconds": thoughts.seconds,
    }


def describe_grounding(
    catalog: Catalog, cases: Sequence[Case], thoughts: Thoughts
) -> dict[str, float]:
    """Return how far thoughts are grounded in the history.

    One figure is the share of thoughts that name a topic of the history. The other is the share of
    named topics that occur in the history.
    """
    found = [
        ground(catalog, case.history.rows, text)
        for case, user in zip(cases, thoughts.users, strict=True)
        for text in user.texts
    ]
    return {
        "thoughts_naming_the_history": sum(one.found > 0 for one in found) / max(1, len(found)),
        "named_topics_in_the_history": sum(one.found for one in found)
        / max(1, sum(one.named for one in found)),
    }
