"""Prefix sets per user, for the rows of the quality table.

A prefix is named by its trie node at the prefix depth. Knows catalogs; knows nothing of models.
"""

# U = all users

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog, popular_prefixes
from models.catalog.sid import Prefix

Nodes = NDArray[np.int64]


@dataclass(frozen=True)
class Coverage:
    """Prefix sets of all users, summarised."""

    has_target_U: NDArray[np.bool_]  # the target lies below one of the prefixes
    prefixes_U: NDArray[np.int64]  # number of prefixes
    items_U: NDArray[np.int64]  # number of items below them


@dataclass(frozen=True)
class PrefixMap:
    """Prefix of each row of a catalog, and number of rows of each prefix."""

    catalog: Catalog

    @cached_property
    def prefix_of_row(self) -> Nodes:
        depth = self.catalog.space.prefix_depth
        return self.catalog.trie.nodes(self.catalog.sids[:, :depth])

    @cached_property
    def prefix_sizes(self) -> NDArray[np.int64]:
        depth = self.catalog.space.prefix_depth
        return np.bincount(self.prefix_of_row, minlength=len(self.catalog.trie.packed[depth]))

    def nodes(self, prefixes: Sequence[Prefix]) -> Nodes:
        """Return the nodes of legal prefixes, in the given order."""
        depth = self.catalog.space.prefix_depth
        return self.catalog.trie.nodes(np.array(prefixes, dtype=np.int64).reshape(-1, depth))

    def cover(self, nodes: Sequence[Nodes], target_U: NDArray[np.int64]) -> Coverage:
        """Summarise one prefix set per user.

        Args:
            target_U: catalog rows; -1 for an item that the catalog lacks.
        """
        wanted = np.where(target_U >= 0, self.prefix_of_row[target_U], -1).tolist()
        return Coverage(
            np.array([node in own for own, node in zip(nodes, wanted, strict=True)]),
            np.array([len(own) for own in nodes]),
            np.array([self.prefix_sizes[own].sum() for own in nodes]),
        )

    def cover_everything(self, target_U: NDArray[np.int64]) -> Coverage:
        """Return the coverage of a table row that ranks the whole catalog."""
        num = len(target_U)
        num_prefixes, num_items = len(self.prefix_sizes), len(self.prefix_of_row)
        return Coverage(target_U >= 0, np.full(num, num_prefixes), np.full(num, num_items))


def shuffled(nodes: Sequence[Nodes], *, seed: int) -> list[Nodes]:
    """Give every user the prefixes of another user."""
    return [nodes[other] for other in another_user(len(nodes), seed=seed)]


def another_user(num_users: int, *, seed: int) -> NDArray[np.int64]:
    """Return a seeded permutation that moves every user: one random cycle through all."""
    cycle = np.random.default_rng(seed).permutation(num_users)
    other = np.empty(num_users, dtype=np.int64)
    other[cycle] = np.roll(cycle, 1)
    return other


def equally_many_popular(prefix_map: PrefixMap, nodes: Sequence[Nodes]) -> list[Nodes]:
    """Replace each user's prefixes by as many of the most popular ones of the training split."""
    most = max((len(own) for own in nodes), default=0)
    popular = prefix_map.nodes(popular_prefixes(prefix_map.catalog, most))
    return [popular[: len(own)] for own in nodes]
