"""Item-item counts: a table row too simple to lose, which learns nothing but how often.

The counts are those of the online model's memory, at its default settings for every release, so
that tables of different releases compare. Knows catalog rows; knows nothing of models.
"""

# N = catalog rows

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case
from bench.quality.ranking.plain_rows import rank_unseen
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts


def all_neighbours(
    histories: Sequence[Sequence[int]], num_items: int, settings: MemorySettings | None = None
) -> Neighbours:
    """Count histories of catalog rows, oldest first, and keep every neighbour of each item."""
    settings = replace(settings or MemorySettings(), num_neighbours=num_items)
    return Neighbours.of(PairCounts.of_histories(histories, num_items, settings), settings)


class CountsRow:
    """Ranks by evidence of the counts; ties, and so items without evidence, by popularity."""

    def __init__(self, neighbours: Neighbours, popularity_N: NDArray[np.int64]) -> None:
        self._neighbours, self._popularity_N = neighbours, popularity_N

    def rank(self, case: Case) -> float:
        newest_first = np.array(case.history.rows[::-1], dtype=np.int64)
        row_R, evidence_R = self._neighbours.evidence(newest_first)
        evidence_N = np.zeros(len(self._neighbours))
        evidence_N[row_R] = evidence_R
        return rank_unseen(evidence_N, case, tie_N=self._popularity_N)
