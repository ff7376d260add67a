"""Candidates of a request: the part of the catalog's trie below a set of prefixes.

Resolved once per C_u, then only read. Knows nothing of models or users.
"""

# P = prefixes, M = nodes of one depth, C = children or leaves, R = rows, N = catalog rows

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.sid import Prefix
from models.catalog.trie import CatalogTrie, expand_ranges

Ints = NDArray[np.int64]


class Stage(NamedTuple):
    """The nodes of one depth, at or above the prefixes, in trie order."""

    node_M: Ints  # number of each node in the trie
    num_leaves_M: Ints  # SIDs of the whole catalog below each node
    # For each node of the stage above (or the root) the index of its first child here, and at the
    # end the number of nodes.
    first: Ints


@dataclass(frozen=True)
class AllowedRows:
    """Catalog rows that may be recommended, and the rows of each leaf."""

    # First row of each leaf, and at the end the number of rows; None if leaf i is row i throughout.
    first_row: Ints | None
    banned_N: NDArray[np.bool_]
    allowed_N: NDArray[np.bool_] | None  # None to allow every row that is not banned

    def expand(self, leaf_C: Ints) -> tuple[Ints, Ints]:
        """Return the allowed rows of these leaves.

        Returns:
            For each row the index of its leaf in `leaf_C`, and the row: (R,) each.
        """
        if self.first_row is None:
            owner_R, row_R = np.arange(len(leaf_C)), leaf_C
        else:
            owner_R, row_R = expand_ranges(self.first_row, leaf_C)
        is_kept = ~self.banned_N[row_R]
        if self.allowed_N is not None:
            is_kept &= self.allowed_N[row_R]
        return owner_R[is_kept], row_R[is_kept]


class Candidates:
    """The tree below a set of prefixes, or the whole catalog if there are no stages.

    Nodes are numbered per depth: down to the prefixes by their index in the stage, below the
    prefixes by their number in the trie.
    """

    def __init__(self, trie: CatalogTrie, stages: Sequence[Stage] = ()) -> None:
        """stages: stages[d - 1] has the nodes of depth d; the last one has the prefixes."""
        self.trie = trie
        self.stages = tuple(stages)

    @cached_property
    def prefix_nodes(self) -> Ints:
        """Return the trie nodes of the prefixes, sorted: (P,)."""
        if self.stages:
            return self.stages[-1].node_M
        return np.arange(len(self.trie.packed[self.trie.space.prefix_depth]), dtype=np.int64)

    def trie_nodes(self, depth: int, at_M: Ints) -> Ints:
        """Return the numbers in the trie of nodes at `depth`: (M,)."""
        return self.stages[depth - 1].node_M[at_M] if 0 < depth <= len(self.stages) else at_M

    def children(self, depth: int, at_M: Ints) -> tuple[Ints, Ints]:
        """Return the children, within the candidates, of nodes at `depth`.

        Returns:
            For each child the index of its parent in `at_M`, and its number here: (C,) each.
        """
        if depth < len(self.stages):
            return expand_ranges(self.stages[depth].first, at_M)
        return expand_ranges(self.trie.first_child[depth], self.trie_nodes(depth, at_M))

    def num_leaves(self, depth: int, at_M: Ints) -> Ints:
        """Count the SIDs of the whole catalog below each node: (M,)."""
        if depth <= len(self.stages):
            return self.stages[depth - 1].num_leaves_M[at_M]
        return self.trie.num_leaves(depth, at_M)


def resolve(trie: CatalogTrie, prefixes: Sequence[Prefix]) -> Candidates:
    """Return the tree below `prefixes`, without prefixes that the trie lacks.

    prefixes: each of `prefix_depth` codes.
    """
    depth = trie.space.prefix_depth
    node_P = trie.nodes(np.array(prefixes, dtype=np.int64).reshape(-1, depth))
    return from_nodes(trie, node_P[node_P >= 0])


def from_nodes(trie: CatalogTrie, node_P: Ints) -> Candidates:
    """Return the tree below trie nodes of the prefix depth, in any order, repeats allowed."""
    stages: list[Stage] = []
    node_M = np.unique(node_P)
    for depth in range(trie.space.prefix_depth, 0, -1):
        parent_M = trie.parents(depth - 1, node_M)
        above_M = np.unique(parent_M) if depth > 1 else np.zeros(1, dtype=np.int64)
        first = np.append(np.searchsorted(parent_M, above_M), len(parent_M))
        stages.insert(0, Stage(node_M, trie.num_leaves(depth, node_M), first))
        node_M = above_M
    return Candidates(trie, stages)
