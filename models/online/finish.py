"""The exact finish of Eq. 11: the best items below a set of prefixes, best first.

Returns the items that scoring every item would return, but expands a fraction of the nodes
(`best_first`). No beam, no illegal SID, no approximation. Knows nothing of Redis or HTTP.
"""

# L = levels, N = rows of the catalog

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates, from_nodes, resolve
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.online.best_first import Ints, Searched
from models.online.shape import RecommenderConfig


class KeptHistory(Protocol):
    """An encoded history of any searcher, to be given back to the same. Never changed."""

    @property
    def num_items(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...


class Searcher(Protocol):
    """The online model with the search over it: in numpy, or natively. Not thread-safe.

    `precision` is how a release names what it was validated at.
    """

    config: RecommenderConfig
    precision: str

    def extend(self, past: Any, sids_ML: NDArray[np.integer]) -> Any:
        """`past` and M more items, oldest first; without a past the history begins here."""

    def prepare(self, tree: Candidates) -> None:
        """Lay out whatever a search of this tree would otherwise have to."""

    def search(
        self,
        state: Any,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
    ) -> Searched:
        """The k best at depth `goal` of a tree, best first, ties by entry.

        Entries are catalog rows, those of `allowed`; or, with None, nodes of the tree at `goal`.
        """


class Scored(NamedTuple):
    """A catalog row and log P(its SID | history) by the online model (Eq. 11)."""

    row: int
    logprob: float


class Finisher:
    """Finishes on one catalog with one searcher. Not thread-safe.

    num_opened_L: nodes opened so far, by depth. num_scored: their children.
    """

    def __init__(self, searcher: Searcher, catalog: Catalog) -> None:
        self.num_opened_L = np.zeros(catalog.space.levels, dtype=np.int64)
        self.num_scored = 0
        self._searcher = searcher
        self._catalog = catalog
        self._whole = Candidates(catalog.trie)
        self._banned_N = np.zeros(len(catalog), dtype=bool)  # False again after every request
        has_shared_sids = len(catalog.trie) < len(catalog)
        self._first_row = catalog.first_row if has_shared_sids else None

    @property
    def precision(self) -> str:
        return self._searcher.precision

    @property
    def num_opened(self) -> int:
        return int(self.num_opened_L.sum())

    @property
    def window(self) -> int:
        return self._searcher.config.window

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """Catalog rows, oldest first. Raises ValueError for two windows of them or more."""
        return self.extend(None, rows)

    def extend(self, state: KeptHistory | None, rows: Sequence[int]) -> KeptHistory:
        """`state` and more rows, which it does not change."""
        num_items = len(rows) + (state.num_items if state else 0)
        if num_items >= 2 * self.window:
            raise ValueError(
                f"{num_items} items, expected below {2 * self.window}: cut to a window"
            )
        sids_ML = self._catalog.sids[np.array(rows, dtype=np.int64)]
        extended: KeptHistory = self._searcher.extend(state, sids_ML)
        return extended

    def candidates(self, prefixes: Sequence[Prefix]) -> Candidates:
        """The tree below `prefixes`, to be kept; prefixes that the catalog lacks are left out."""
        return self.prepare(resolve(self._catalog.trie, prefixes))

    def own_prefixes(self, state: KeptHistory, *, count: int) -> Candidates:
        """Below the online model's own `count` best legal prefixes by log P(prefix | history)."""
        nodes = self.rank_prefixes(state, count=count)
        return self.prepare(from_nodes(self._catalog.trie, nodes))

    def rank_prefixes(self, state: KeptHistory, *, count: int) -> Ints:
        """The `count` best prefixes as trie nodes, best first; ties by SID."""
        depth = self._catalog.space.prefix_depth
        return self._search(state, self._whole, depth, k=count, allowed=None).found.entry

    def union(self, first: Candidates, second: Candidates) -> Candidates:
        both = np.concatenate([first.prefix_nodes, second.prefix_nodes])
        return self.prepare(from_nodes(self._catalog.trie, both))

    def finish(
        self,
        state: KeptHistory,
        candidates: Candidates,
        *,
        k: int,
        exclude: Collection[int] = (),
        allowed_N: NDArray[np.bool_] | None = None,
    ) -> list[Scored]:
        """The k best allowed items among `candidates`, best first; ties by catalog row.

        Exact: equal to scoring every item of the catalog and keeping the allowed ones below the
        prefixes. exclude: catalog rows. allowed_N: mask over the catalog's rows. A SID shared by
        several items stands for all of them. Items whose score is not finite are left out.
        """
        levels = self._catalog.space.levels
        allowed = AllowedRows(self._first_row, self._banned_N, allowed_N)
        with self._ban(exclude):
            found = self._search(state, candidates, levels, k=k, allowed=allowed).found
        best = zip(found.entry.tolist(), found.logprob.tolist(), strict=True)
        return [Scored(row, logprob) for row, logprob in best]

    @contextmanager
    def _ban(self, rows: Collection[int]) -> Iterator[None]:
        banned = np.fromiter(rows, dtype=np.int64, count=len(rows))
        self._banned_N[banned] = True
        try:
            yield
        finally:
            self._banned_N[banned] = False

    def prepare(self, candidates: Candidates) -> Candidates:
        """With all that a request would otherwise have to lay out."""
        self._searcher.prepare(candidates)
        return candidates

    def _search(
        self,
        state: KeptHistory,
        tree: Candidates,
        goal: int,
        *,
        k: int,
        allowed: AllowedRows | None,
    ) -> Searched:
        if not k:
            return Searched.nothing(self._catalog.space.levels)
        searched = self._searcher.search(state, tree, goal=goal, k=k, allowed=allowed)
        self.num_opened_L += searched.num_opened_L
        self.num_scored += searched.num_scored
        return searched
