"""Ranks of held-out test items, which no model has learnt: simple rows, online model, both tiers.

Users, masks and ranks are those of `bench quality`: the last item of a user is ranked in the whole
catalog, without items of the history. Knows data sets, catalogs and models; knows no files.
"""

# U = users, N = catalog rows

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.catalog.held_out import has_targets, sample_in_order
from models.catalog.sid import Prefix
from models.online.finish import Finisher
from models.online.history_cache import window_start
from models.online.memory.neighbours import Neighbours
from models.reasoner.beam import beam_search
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import TransformersReasoner
from training.event_types import TypeWeights, weight_of
from training.held_out_table import TOP, Ranks

NUM_USERS = 5000  # judged at most
NUM_ASKED = 500  # users, the first ones, that the reasoner is asked about
NUM_PREFIXES = 50  # beams of the reasoner for each
_ALL_EQUAL: TypeWeights = {}
_BATCH = 32


class Case(NamedTuple):
    """One user with the test item left out. Items are catalog rows, oldest first."""

    seen: tuple[int, ...]  # masked in every ranking
    target: int


def cut_cases(
    dataset: Dataset, catalog: Catalog, *, seed: int, types: TypeWeights = _ALL_EQUAL
) -> list[Case]:
    """Return at most NUM_USERS cases, in the seeded order of `bench quality --users`.

    types: weights of event types; a target of weight 0 is not asked for.
    """
    histories = [
        history
        for history in dataset.histories.values()
        if has_targets(history) and weight_of(types, history[-1].type) > 0
    ]
    chosen = sample_in_order(histories, NUM_USERS, seed)
    rows = (catalog.rows(event.item_id for event in history) for history in chosen)
    return [Case(of_user[:-1], of_user[-1]) for of_user in rows]


def repeat_share(cases: Sequence[Case]) -> float:
    """Return the share of cases whose target stands in the history."""
    return round(sum(case.target in case.seen for case in cases) / max(len(cases), 1), 4)


def rank_by_popularity(catalog: Catalog, cases: Sequence[Case]) -> Ranks:
    """Rank by training interactions, ties by catalog row."""
    return np.array([_rank(catalog.popularity.astype(np.float64), case) for case in cases])


def rank_by_counts(catalog: Catalog, neighbours: Neighbours, cases: Sequence[Case]) -> Ranks:
    """Rank by the evidence of the memory alone; ties, and items without any, by popularity."""
    share_N = catalog.popularity / (catalog.popularity.max() + 1.0)  # below 1
    ranks = []
    for case in cases:
        scores_N = share_N.copy()
        rows, evidence = neighbours.evidence(np.array(case.seen[::-1]))
        _, place = np.unique(evidence, return_inverse=True)
        scores_N[rows] += 1 + place
        ranks.append(_rank(scores_N, case))
    return np.array(ranks)


def rank_by_finisher(
    finisher: Finisher,
    catalog: Catalog,
    cases: Sequence[Case],
    prefixes: Sequence[Sequence[Prefix]] | None = None,
) -> Ranks:
    """Rank by the exact finish below the prefixes of each user; None stands for the catalog."""
    whole, ranks = Candidates(catalog.trie), []
    for at, case in enumerate(cases):
        recent = case.seen[-finisher.window :]
        state = finisher.encode(recent[window_start(len(recent), finisher.window) :])
        tree = whole if prefixes is None else finisher.candidates(prefixes[at])
        found = finisher.finish(state, tree, k=TOP, exclude=case.seen)
        rows = [item.row for item in found]
        ranks.append(rows.index(case.target) + 1.0 if case.target in rows else np.inf)
    return np.array(ranks)


def prefixes_at_once(
    reasoner: TransformersReasoner, catalog: Catalog, cases: Sequence[Case], *, most: int
) -> list[list[Prefix]]:
    """Ask a reasoner without a thought: one beam of NUM_PREFIXES prefixes for each user.

    most: newest items of a history that it reads.
    """
    depth, found = catalog.space.prefix_depth, list[list[Prefix]]()
    for start in range(0, len(cases), _BATCH):
        chunk = cases[start : start + _BATCH]
        asked = [render_history(catalog, case.seen[-most:]) for case in chunk]
        scorer = reasoner.recite(asked, [[""]] * len(asked)).scorer()
        beams = beam_search(scorer, catalog.trie, depth=depth, width=NUM_PREFIXES)
        found += [[beam.codes for beam in of_user] for of_user in beams]
    return found


def _rank(scores_N: NDArray[np.float64], case: Case) -> float:
    """Return the target's rank by scores among unseen items, ties by row. Changes `scores_N`."""
    if case.target in case.seen:
        return np.inf
    scores_N[list(case.seen)] = -np.inf
    own = scores_N[case.target]
    tied_before = np.count_nonzero(scores_N[: case.target] == own)
    return 1.0 + np.count_nonzero(scores_N > own) + tied_before
