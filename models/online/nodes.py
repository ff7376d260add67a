"""Embeddings of SID prefixes and of items, in numpy.

Equal to `OnlineRecommender.embed_nodes` and `embed_items`. Needs no torch.
"""

# M = items, L = levels, W = model width

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from models.catalog.trie import CatalogTrie
from models.online.shape import RecommenderConfig

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


class NodeTables:
    """Embedding tables of the nodes of the SID tree, by level."""

    def __init__(self, config: RecommenderConfig, weights: Mapping[str, NDArray[Any]]) -> None:
        self._sizes = config.sizes
        self._item_scale = config.item_scale
        # codes[l]: the codes of level l, (V, W).
        self.codes = [weights[f"code_embeddings.{at}.weight"] for at in range(config.levels)]
        below = range(config.levels - 1)
        # own[l]: the known prefixes of l + 1 codes, (K + 1, W). The last row is zero and serves
        # unknown prefixes. None at l = 0.
        self.own: list[Floats | None] = [None]
        self.own += [weights[f"node_embeddings.{at}.own.weight"] for at in below]
        self._known = [weights[f"node_embeddings.{at}.known"] for at in below]
        self._rows: WeakKeyDictionary[CatalogTrie, tuple[NDArray[np.int32], ...]] = (
            WeakKeyDictionary()
        )

    def items(self, sids_ML: NDArray[np.integer]) -> Floats:
        """Embed items for a history: SIDs (M, L) to (M, W)."""
        packed_M = sids_ML[:, 0].astype(np.int64)
        total: Floats = self.codes[0][packed_M]
        for level in range(1, sids_ML.shape[1]):
            packed_M = packed_M * self._sizes[level] + sids_ML[:, level]
            own = self.own[level]
            assert own is not None
            total += self.codes[level][sids_ML[:, level]] + own[self._own_row(level, packed_M)]
        total *= self._item_scale
        return total

    def own_rows(self, trie: CatalogTrie) -> tuple[NDArray[np.int32], ...]:
        """Return the row in `own[l]` of each trie node at depth l + 1, l >= 1. Kept per trie."""
        if (rows := self._rows.get(trie)) is None:
            packed = [trie.packed[depth] for depth in range(2, len(self._sizes) + 1)]
            found = [self._own_row(level, nodes) for level, nodes in enumerate(packed, start=1)]
            rows = (np.empty(0, np.int32), *(row_M.astype(np.int32) for row_M in found))
            self._rows[trie] = rows
        return rows

    def _own_row(self, level: int, packed_M: Ints) -> Ints:
        known = self._known[level - 1]
        at_M = np.searchsorted(known, packed_M)
        return np.where(known[at_M] == packed_M, at_M, len(known) - 1)
