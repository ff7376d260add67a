"""The memory laid over the tree of a catalog's SIDs, as the exact search needs it.

score(item) = log P(SID | history) + bonus, with bonus = scale * log(1 + evidence / floor). The
largest bonus below a node, added to log P(node | history), bounds every score below the node.
A night may add to the bonus of some items. Its share is kept as evidence too, as much as gives the
same bonus, so that a search knows one kind of bonus.
Knows nothing of models, users or requests. `models/online/kernel/memory.h` does the same in C.
"""

# N = catalog rows, M = tree nodes of one depth, R = rows with evidence, L = levels

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import Counts, Ints

_LEAST_SHARE = 1e-3


@dataclass(frozen=True, eq=False)
class NightBonus:
    """Items that a night found likely for one user, and what it adds to their scores."""

    row_R: Ints  # catalog rows, each once
    bonus_R: NDArray[np.float64]  # nats, from 0 up

    def faded(self, share: float) -> "NightBonus | None":
        """Return a share of the bonus; None for a share that is next to nothing, or no items."""
        if share < _LEAST_SHARE or not len(self.row_R):
            return None
        return self if share == 1 else NightBonus(self.row_R, share * self.bonus_R)

    def joined(self, other: "NightBonus") -> "NightBonus":
        """Return the sum of both."""
        row_R = np.union1d(self.row_R, other.row_R)
        bonus_R = np.zeros(len(row_R))
        for each in (self, other):
            bonus_R[np.searchsorted(row_R, each.row_R)] += each.bonus_R
        return NightBonus(row_R, bonus_R)


class TreeMemory:
    """Neighbours over one catalog, and the room in which a search spreads their evidence.

    The room is zero between searches. Not thread-safe.
    """

    def __init__(self, neighbours: Neighbours, catalog: Catalog) -> None:
        """Raises ValueError for neighbours of a catalog of another size."""
        if len(neighbours) != len(catalog):
            raise ValueError(f"neighbours of {len(neighbours)} items, expected {len(catalog)}")
        self.neighbours = neighbours
        self.settings = neighbours.settings
        trie, levels = catalog.trie, catalog.space.levels
        leaf_N = np.repeat(np.arange(len(trie)), np.diff(catalog.first_row))
        # parent_M[d]: the parent, at depth d, of each node of depth d + 1, below depth L.
        self.parent_M = [
            trie.parents(depth, np.arange(len(trie.packed[depth + 1]))).astype(np.int32)
            for depth in range(levels - 1)
        ]
        self.above_N = trie.parents(levels - 1, leaf_N).astype(np.int32)  # node at depth L - 1
        self.row_evidence_N = np.zeros(len(catalog))
        # node_evidence_M[d]: the largest evidence below each node of depth d, for 1 <= d < L.
        self.node_evidence_M = [np.zeros(len(trie.packed[depth])) for depth in range(levels)]

    def with_neighbours(self, neighbours: Neighbours) -> "TreeMemory":
        """Return a memory with other neighbours, over the same tree and in the same room.

        Raises ValueError for neighbours of another number of items, or with other settings.
        """
        if len(neighbours) != len(self.neighbours):
            raise ValueError(
                f"neighbours of {len(neighbours)} items, expected {len(self.neighbours)}"
            )
        if neighbours.settings != self.settings:
            raise ValueError("neighbours with other settings, expected those of the release")
        other = copy(self)
        other.neighbours = neighbours
        return other

    @property
    def num_bytes(self) -> int:
        nodes = sum(array.nbytes for array in (*self.parent_M, self.above_N))
        room = sum(array.nbytes for array in (*self.node_evidence_M, self.row_evidence_N))
        return self.neighbours.num_bytes + nodes + room

    @contextmanager
    def recalled(self, recent: Ints, night: NightBonus | None = None) -> Iterator[None]:
        """Hold the evidence of a history's newest rows, newest first, and of a night."""
        row_R, evidence_R = self.neighbours.evidence(recent)
        if night is not None:
            row_R, evidence_R = self._raised(row_R, evidence_R, night)
        self.row_evidence_N[row_R] = evidence_R
        for depth, node_R in self._ancestors(row_R):
            np.maximum.at(self.node_evidence_M[depth], node_R, evidence_R)
        try:
            yield
        finally:
            self.row_evidence_N[row_R] = 0
            for depth, node_R in self._ancestors(row_R):
                self.node_evidence_M[depth][node_R] = 0

    def _raised(self, row_R: Ints, evidence_R: Counts, night: NightBonus) -> tuple[Ints, Counts]:
        """Return the rows with evidence, ascending, after a night has raised it."""
        floor = self.settings.floor
        all_R = np.union1d(row_R, night.row_R)
        raised_R = np.zeros(len(all_R))
        raised_R[np.searchsorted(all_R, row_R)] = evidence_R
        at_R = np.searchsorted(all_R, night.row_R)
        factor_R = np.exp(night.bonus_R / self.settings.scale)
        raised_R[at_R] = (floor + raised_R[at_R]) * factor_R - floor
        return all_R, raised_R

    def row_bonus(self, row_R: Ints) -> Counts:
        return self._bonus(self.row_evidence_N[row_R])

    def node_bonus(self, depth: int, node_M: Ints) -> Counts:
        """Return the largest bonus below trie nodes at `depth`, above the leaves: (M,)."""
        return self._bonus(self.node_evidence_M[depth][node_M])

    def _bonus(self, evidence: Counts) -> Counts:
        bonus: Counts = self.settings.scale * np.log1p(evidence / self.settings.floor)
        return bonus

    def _ancestors(self, row_R: Ints) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the depth and the nodes above these rows, from depth L - 1 up to depth 1."""
        node_R = self.above_N[row_R]
        for depth in range(len(self.parent_M), 0, -1):
            yield depth, node_R
            node_R = self.parent_M[depth - 1][node_R]


class Recalled(NamedTuple):
    """A memory, the newest rows of one history in it, and a night's bonus."""

    memory: TreeMemory
    recent: Ints  # catalog rows, newest first
    night: NightBonus | None = None
