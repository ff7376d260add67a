"""Rank of the left-out item by the reasoner alone.

The reasoner's SIDs are ordered by the best path of each. Their items follow in serving order,
without those that the user has seen. Knows nothing of the online model.
"""

# U = users

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case
from bench.quality.thoughts.thoughts import CaseThoughts
from models.catalog.catalog import Catalog
from models.catalog.sid import Sid


@dataclass(frozen=True)
class ReasonerRanks:
    """Results of the reasoner alone over all users."""

    rank_U: NDArray[np.float64]  # inf if no SID covers the target
    has_prefix_U: NDArray[np.bool_]  # C_u holds the target's prefix
    mean_sids: float  # per user
    mean_tokens: float  # per user


def rank_by_reasoner(
    catalog: Catalog, cases: Sequence[Case], users: Sequence[CaseThoughts]
) -> ReasonerRanks:
    """Rank every target by its user's SIDs; `users` are in the order of `cases`."""
    depth = catalog.space.prefix_depth
    ranks, found = [], []
    for case, user in zip(cases, users, strict=True):
        ranks.append(rank_of_target(catalog, case, user.sids))
        target = None if case.target is None else tuple(catalog.sids[case.target, :depth].tolist())
        found.append(target in user.prefixes)
    return ReasonerRanks(
        rank_U=np.array(ranks),
        has_prefix_U=np.array(found),
        mean_sids=float(np.mean([len(user.sids) for user in users])),
        mean_tokens=float(np.mean([user.tokens for user in users])),
    )


def rank_of_target(catalog: Catalog, case: Case, sids: Sequence[Sid]) -> float:
    """Return the rank of the case's target; 1 is best, infinity if no SID covers it."""
    seen, place = set(case.seen), 0
    codes = np.array(sids, dtype=np.int64).reshape(-1, catalog.space.levels)
    for leaf in catalog.trie.nodes(codes).tolist():
        for row in range(catalog.first_row[leaf], catalog.first_row[leaf + 1]):
            place += row not in seen
            if row == case.target and row not in seen:
                return float(place)
    return float("inf")
