"""Evidence for a prompt: where others went on to from the newest items of a history, with counts.

The memory's counted pairs, without those of the history itself, are added up by prefix. So a
reasoner reads what it cannot remember. Knows nothing of prompts or reasoners.
"""

# P = counted pairs of the newest items, M = prefixes, E = events of a history

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.catalog.trie import expand_ranges
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.pair_counts import Counts, Ints, PairCounts, sum_at
from models.reasoner.prompts import Cited

MOST_CITED = 4  # prefixes: 22 tokens of the bundled tokenizer
_LEAST = 1e-3  # of a count, which the file of a release holds in float32


class Evidence:
    """Finds the prefixes that others went on to. Immutable."""

    def __init__(self, catalog: Catalog, counts: PairCounts, settings: MemorySettings) -> None:
        """Raises ValueError for counts over another number of items."""
        if counts.num_items != len(catalog):
            raise ValueError(f"counts of {counts.num_items} items, expected {len(catalog)}")
        counts = counts.strongest(settings)
        depth = catalog.space.prefix_depth
        self._catalog, self._settings = catalog, settings
        self._first = np.searchsorted(counts.items(), np.arange(len(catalog) + 1)).astype(np.int64)
        self._later_P, self._count_P = counts.later_items(), counts.count_P
        self._weight_P = counts.weights(settings) / counts.count_P  # of one count
        self._node_N = catalog.trie.nodes(catalog.sids[:, :depth].astype(np.int64))
        self._num_nodes = len(catalog.trie.packed[depth])

    @classmethod
    def of(cls, catalog: Catalog, memory: Memory | None) -> "Evidence | None":
        """Return the evidence of a release's memory; None for a release without one."""
        return None if memory is None else cls(catalog, memory.counts, memory.settings)

    def cite(
        self,
        history: Sequence[int],
        counted: Sequence[int] | None = None,
        *,
        most: int = MOST_CITED,
    ) -> list[Cited]:
        """Return the prefixes with most evidence, most first; none where no others are known.

        Items that the history has already give no evidence.

        Args:
            history: catalog rows, oldest first.
            counted: all events of the same user that the counts may hold; by default the history.
            most: prefixes.
        """
        recent_A = np.array(history[::-1][: self._settings.recent], dtype=np.int64)
        age_P, at_P = expand_ranges(self._first, recent_A)
        later_P = self._later_P[at_P]
        own_P = self._own_counts(recent_A[age_P], later_P, history if counted is None else counted)
        is_had_P = np.isin(later_P, np.array(history, dtype=np.int64))
        count_P = np.where(is_had_P, 0.0, self._count_P[at_P] - own_P).clip(min=0.0)
        mass_P = self._settings.decay**age_P * count_P * self._weight_P[at_P]
        node_P = self._node_N[later_P]
        mass_M = sum_at(node_P, mass_P, self._num_nodes)
        count_M = sum_at(node_P, count_P, self._num_nodes)
        best_M = np.argsort(-mass_M, kind="stable")[:most]
        return [self._cited(node, count_M[node]) for node in best_M if count_M[node] > _LEAST]

    def _cited(self, node: int, count: float) -> Cited:
        depth = self._catalog.space.prefix_depth
        packed_1 = self._catalog.trie.packed[depth][node : node + 1]
        (codes,) = self._catalog.space.unpack(packed_1, depth).tolist()
        return Cited(tuple(codes), int(np.ceil(count - _LEAST)))

    def _own_counts(self, item_P: Ints, later_P: Ints, counted: Sequence[int]) -> Counts:
        """Return how much of each pair's count comes from one history: (P,)."""
        rows_E = np.array(counted, dtype=np.int64)
        distance_EE = np.arange(len(rows_E)) - np.arange(len(rows_E))[:, None]
        share_EE = _shares(distance_EE, self._settings)
        at_E, later_E = np.nonzero(share_EE)
        pair_E = rows_E[at_E] * len(self._catalog) + rows_E[later_E]
        distinct, place_E = np.unique(pair_E, return_inverse=True)
        own = np.append(sum_at(place_E, share_EE[at_E, later_E], len(distinct)), 0.0)
        pair_P = item_P * len(self._catalog) + later_P
        place_P = np.searchsorted(distinct, pair_P)
        is_own_P = np.append(distinct, -1)[place_P] == pair_P
        found: Counts = own[np.where(is_own_P, place_P, len(distinct))]
        return found


def _shares(distance: NDArray[np.int64], settings: MemorySettings) -> Counts:
    """Return the count that a pair of events adds, by their distance; 0 outside the window."""
    away = np.abs(distance)
    share = 1 / np.maximum(away, 1) * np.where(distance < 0, settings.backward, 1.0)
    within: Counts = np.where((away >= 1) & (away <= settings.window), share, 0.0)
    return within
