"""The neighbours of each item with their weights, and the evidence that a history gives by them.

Items are catalog rows. Knows nothing of models or SIDs.
"""

# N = catalog rows, P = pairs, A = recent items (newest first), R = asked or found rows

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalog.trie import expand_ranges
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.pair_counts import (
    Counts,
    Ints,
    PairCounts,
    largest_of_each,
    sum_at,
    sum_equal,
)
from models.online.memory.similar_items import SimilarItems

NUM_REASONS = 3  # most items that explain another one


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The neighbours of each item, strongest first, one item after the other."""

    settings: MemorySettings
    first: Ints  # of each item its first place in the arrays below, and at the end their length
    neighbour_P: NDArray[np.int32]  # catalog rows
    weight_P: NDArray[np.float32]  # all above 0

    @classmethod
    def of(
        cls, counts: PairCounts, settings: MemorySettings, similar: SimilarItems | None = None
    ) -> "Neighbours":
        """Keep the neighbours with the largest weights.

        A weight is that of the pair's count, if it is among the strongest of its item, plus that of
        the cosine of the two items.
        """
        counts = counts.strongest(settings)
        pair_P, weight_P = counts.pair_P, counts.weights(settings)
        if similar is not None:
            more = similar.pairs(weight=settings.similar_weight, power=settings.similar_power)
            pair_P, weight_P = sum_equal(
                np.concatenate([pair_P, more.item_P * counts.num_items + more.other_P]),
                np.concatenate([weight_P, more.weight_P]),
            )
        item_P, other_P = np.divmod(pair_P, counts.num_items)
        return cls.of_pairs(settings, counts.num_items, item_P, other_P, weight_P)

    @classmethod
    def of_pairs(
        cls,
        settings: MemorySettings,
        num_items: int,
        item_P: Ints,
        other_P: Ints,
        weight_P: Counts,
    ) -> "Neighbours":
        """Keep the largest weights of each item. A pair comes once, in any order."""
        order = np.lexsort((other_P, item_P))
        item_P, other_P, weight_P = item_P[order], other_P[order], weight_P[order]
        kept = largest_of_each(item_P, weight_P, settings.num_neighbours)
        return cls(
            settings,
            np.searchsorted(item_P[kept], np.arange(num_items + 1)).astype(np.int64),
            other_P[kept].astype(np.int32),
            weight_P[kept].astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def num_bytes(self) -> int:
        return self.first.nbytes + self.neighbour_P.nbytes + self.weight_P.nbytes

    def patched(
        self,
        row_R: Ints,
        first: Ints,
        neighbour_P: NDArray[np.int32],
        weight_P: NDArray[np.float32],
    ) -> "Neighbours":
        """Return neighbours with whole new lists of some rows; shares no array with the old ones.

        Args:
            row_R: catalog rows, ascending.
            first: (R + 1,), of each of them its first place in the arrays after it.
        """
        size_N = np.diff(self.first)
        size_N[row_R] = np.diff(first)
        neighbours, weights, at = [], [], 0
        for place, row in enumerate(row_R.tolist()):
            kept, new = slice(at, self.first[row]), slice(first[place], first[place + 1])
            neighbours += [self.neighbour_P[kept], neighbour_P[new]]
            weights += [self.weight_P[kept], weight_P[new]]
            at = self.first[row + 1]
        return Neighbours(
            self.settings,
            np.append(0, np.cumsum(size_N)).astype(np.int64),
            np.concatenate([*neighbours, self.neighbour_P[at:]]),
            np.concatenate([*weights, self.weight_P[at:]]),
        )

    def of_row(self, row: int) -> list[tuple[int, float]]:
        """Return the neighbours of one row with their weights, strongest first."""
        places = slice(*self.first[row : row + 2].tolist())
        pairs = zip(self.neighbour_P[places].tolist(), self.weight_P[places].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def rows_beside(self, row_R: Ints) -> Ints:
        """Return the rows that have one of these as a neighbour, ascending."""
        places = np.flatnonzero(np.isin(self.neighbour_P, row_R))
        return np.unique(np.searchsorted(self.first, places, side="right") - 1)

    def moved(self, row_of_old: Ints, num_items: int) -> "Neighbours":
        """Return the neighbours over `num_items` other rows; new items have none.

        row_of_old: the new row of each old one; -1 for an item that has left.
        """
        item_P = row_of_old[np.repeat(np.arange(len(self)), np.diff(self.first))]
        other_P = row_of_old[self.neighbour_P]
        kept = np.flatnonzero((item_P >= 0) & (other_P >= 0))
        kept = kept[np.argsort(item_P[kept], kind="stable")]
        return Neighbours(
            self.settings,
            np.searchsorted(item_P[kept], np.arange(num_items + 1)).astype(np.int64),
            other_P[kept].astype(np.int32),
            self.weight_P[kept],
        )

    def evidence(self, recent: NDArray[np.integer]) -> tuple[Ints, Counts]:
        """Return the items that a history gives evidence for, ascending, and how much.

        Args:
            recent: catalog rows of the history's newest items, newest first.
        """
        _, row_P, share_P = self._shares(recent)
        row_R, place_P = np.unique(row_P, return_inverse=True)
        return row_R.astype(np.int64), sum_at(place_P, share_P, len(row_R))

    def reasons(self, recent: NDArray[np.integer], rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Return for each of `rows` the items of the history that gave it most evidence.

        At most NUM_REASONS distinct items, most first, ties by the newest; empty without evidence.
        """
        found = []
        for given in self.given(recent, rows):
            ranked = sorted(given, key=lambda item: -given[item])  # stable: the newest stay first
            found.append(tuple(ranked[:NUM_REASONS]))
        return found

    def given(self, recent: NDArray[np.integer], rows: Sequence[int]) -> list[dict[int, float]]:
        """Return for each of `rows` the evidence by item of the history, the newest item first."""
        age_P, row_P, share_P = self._shares(recent)
        found = []
        for row in rows:
            given: dict[int, float] = {}
            for at in np.flatnonzero(row_P == row).tolist():
                item = int(recent[age_P[at]])
                given[item] = given.get(item, 0.0) + float(share_P[at])
            found.append(given)
        return found

    def weight(self, row: int, neighbour: int) -> float:
        """Return the weight of one neighbour of a row; 0 if it is none."""
        places = slice(*self.first[row : row + 2].tolist())
        return float(self.weight_P[places][self.neighbour_P[places] == neighbour].sum())

    def _shares(self, recent: NDArray[np.integer]) -> tuple[Ints, NDArray[np.int32], Counts]:
        """Return age, row and evidence of every neighbour of the newest items: (P,) each."""
        recent_A = recent[: self.settings.recent].astype(np.int64)
        age_P, at_P = expand_ranges(self.first, recent_A)
        share_A = self.settings.decay ** np.arange(len(recent_A), dtype=np.float64)
        return age_P, self.neighbour_P[at_P], share_A[age_P] * self.weight_P[at_P]
