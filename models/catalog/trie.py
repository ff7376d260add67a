"""Trie of the catalog's SIDs, in flat sorted arrays: exactly the legal SIDs and prefixes.

A node at depth d is the index of its d-code prefix among the sorted distinct prefixes of that
depth, so the children of a node are one contiguous range of nodes at depth d + 1. Knows nothing of
items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.sid import Prefix, SidSpace
from models.errors import InvalidSid


class Children(NamedTuple):
    """Children of several nodes, one node after the other. C = children in all."""

    parent_C: NDArray[np.int64]  # index of the parent among the given nodes
    node_C: NDArray[np.int64]  # node at the next depth
    code_C: NDArray[np.int32]  # last code of that node


class CatalogTrie:
    """All legal prefixes of a catalog.

    `codes[d]` holds the last code of each node at depth d + 1; `first_child[d]` the CSR offsets
    from nodes at depth d to their children. Depth 0 is the root alone.
    """

    def __init__(self, space: SidSpace, codes_NL: NDArray[np.integer]) -> None:
        """codes_NL: (N, L) SIDs in any order, repeats allowed. Raises InvalidSid on a bad code."""
        if codes_NL.ndim != 2 or codes_NL.shape[1] != space.levels:
            raise InvalidSid(f"SIDs of shape {codes_NL.shape}, expected (N, {space.levels})")
        outside = (codes_NL < 0) | (codes_NL >= np.array(space.sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0].tolist()
            space.check(codes_NL[row].tolist())
            raise InvalidSid(f"row {row}: bad code at level {level}")
        self.space = space
        self.packed: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
        self.codes: list[NDArray[np.int32]] = []
        self.first_child: list[NDArray[np.int64]] = []
        leaves = np.unique(space.pack(codes_NL))
        for depth in range(1, space.levels + 1):
            below = int(np.prod(space.sizes[depth:], dtype=np.int64))
            self.packed.append(_unique_sorted(leaves // below))
        for depth, size in enumerate(space.sizes):
            parents, nodes = self.packed[depth], self.packed[depth + 1]
            self.codes.append((nodes % size).astype(np.int32))
            bounds = (
                np.append(parents, parents[-1:] + 1) if len(nodes) else np.zeros(len(parents) + 1)
            )
            self.first_child.append(np.searchsorted(nodes // size, bounds).astype(np.int64))

    def __len__(self) -> int:
        """Count the distinct SIDs."""
        return len(self.packed[-1])

    @property
    def num_bytes(self) -> int:
        tables = (self.packed, self.codes, self.first_child)
        return sum(array.nbytes for table in tables for array in table)

    def nodes(self, prefixes_PD: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the node at depth D of each prefix (P, D); -1 for one that the catalog lacks."""
        depth = prefixes_PD.shape[1]
        wanted, known = self.space.pack(prefixes_PD), self.packed[depth]
        in_range = ((prefixes_PD >= 0) & (prefixes_PD < np.array(self.space.sizes[:depth]))).all(
            axis=1
        )
        if not len(known):
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found: NDArray[np.int64] = np.where(in_range & (known[at] == wanted), at, -1)
        return found

    def expand(self, depth: int, node_N: NDArray[np.int64]) -> Children:
        """Return the children of nodes at `depth`, without a loop and without padding."""
        parent_C, node_C = expand_ranges(self.first_child[depth], node_N)
        return Children(parent_C, node_C, self.codes[depth][node_C])

    def num_leaves(self, depth: int, node_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the distinct SIDs below nodes at `depth`: (N,)."""
        lo_N, hi_N = node_N, node_N + 1
        for level in range(depth, self.space.levels):
            first = self.first_child[level]
            lo_N, hi_N = first[lo_N], first[hi_N]
        return hi_N - lo_N

    def parents(self, depth: int, node_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the parents, at `depth`, of nodes at `depth` + 1: (N,)."""
        above: NDArray[np.int64] = np.searchsorted(self.first_child[depth], node_N, side="right")
        return above - 1

    def contains(self, prefix: Prefix) -> bool:
        return self._node(prefix) >= 0

    def children(self, prefix: Prefix) -> NDArray[np.int32]:
        """Return the codes that may follow `prefix`, ascending.

        Empty for an unknown prefix and for a complete SID.
        """
        node = self._node(prefix)
        if node < 0 or len(prefix) == self.space.levels:
            return np.empty(0, dtype=np.int32)
        return self.expand(len(prefix), np.array([node])).code_C

    def prefixes(self, depth: int | None = None) -> NDArray[np.int32]:
        """Return all legal prefixes of `depth` codes, sorted: (P, depth).

        depth: the prefix depth of the space by default.
        """
        depth = self.space.prefix_depth if depth is None else depth
        return self.space.unpack(self.packed[depth], depth)

    def _node(self, prefix: Sequence[int]) -> int:
        if len(prefix) > self.space.levels:
            return -1
        codes = np.array(prefix, dtype=np.int64).reshape(1, len(prefix))
        return int(self.nodes(codes)[0])


def expand_ranges(
    first: NDArray[np.int64], at_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Expand the ranges first[i] to first[i + 1] - 1, for each i of `at_N`, one after the other.

    Returns:
        For each member of a range the index of its range in `at_N`, and the member: (C,) each.
    """
    lo_N = first[at_N]
    count_N = first[at_N + 1] - lo_N
    parent_C = np.repeat(np.arange(len(at_N), dtype=np.int64), count_N)
    starts_N = np.cumsum(count_N) - count_N
    member_C = np.arange(len(parent_C), dtype=np.int64) + (lo_N - starts_N)[parent_C]
    return parent_C, member_C


def _unique_sorted(sorted_N: NDArray[np.int64]) -> NDArray[np.int64]:
    is_new = np.ones(len(sorted_N), dtype=bool)
    is_new[1:] = sorted_N[1:] != sorted_N[:-1]
    distinct: NDArray[np.int64] = sorted_N[is_new]
    return distinct
