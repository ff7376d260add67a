"""The exact finish of Eq. 11: the best items below a set of prefixes, best first.

With a memory, an item's score is its log-probability and a bonus for the evidence that the newest
items of the history give it. Returns the items that scoring every item would return, but expands a
fraction of the nodes (`best_first`). No beam, no illegal SID, no approximation. Knows nothing of
Redis or HTTP.
"""

# L = levels, N = rows of the catalog

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates, from_nodes, resolve
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.online.found import Found, Ints, Searched
from models.online.memory.neighbours import Neighbours
from models.online.memory.tree_memory import NightBonus, Recalled, TreeMemory
from models.online.shape import RecommenderConfig

_NO_ROWS = np.empty(0, dtype=np.int64)


class EncodedHistory(Protocol):
    """An encoded history. Belongs to the searcher that made it. Immutable."""

    @property
    def num_items(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class KeptHistory:
    """An encoded history, and its newest items for the memory. Immutable."""

    encoded: EncodedHistory
    recent: Ints  # catalog rows, newest first; empty without a memory

    @property
    def num_items(self) -> int:
        return self.encoded.num_items

    @property
    def num_bytes(self) -> int:
        return self.encoded.num_bytes + self.recent.nbytes


class Searcher(Protocol):
    """The online model and the search over it, in numpy or native. Not thread-safe."""

    config: RecommenderConfig
    precision: str  # a key of the manifest's precisions

    def extend(self, past: Any, sids_ML: NDArray[np.integer]) -> Any:
        """Append M items, oldest first, to an encoded history. `past=None` begins a history."""

    def prepare(self, tree: Candidates) -> None:
        """Do the work of a search that depends on the tree alone."""

    def search(
        self,
        state: Any,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
        recalled: Recalled | None = None,
    ) -> Searched:
        """Find the k best entries at depth `goal` of a tree, best first, ties by entry.

        With `allowed`, entries are the allowed catalog rows. With None they are nodes of the tree
        at `goal`, and the largest bonus below a node is its own. Without `recalled`, scores are
        log-probabilities and rows have no reasons.
        """


class Scored(NamedTuple):
    """One recommended item."""

    row: int  # of the catalog
    logprob: float  # log P(SID | history) by the online model (Eq. 11)
    score: float  # log-probability and bonus; items are ranked by it
    # Catalog rows of the history that gave most evidence for the item, most first; at most three.
    because: tuple[int, ...] = ()


class Finisher:
    """Finishes on one catalog with one searcher. Not thread-safe."""

    def __init__(
        self, searcher: Searcher, catalog: Catalog, neighbours: Neighbours | None = None
    ) -> None:
        """neighbours: the memory over the same catalog; None for scores without a bonus."""
        self._levels = catalog.space.levels
        self.num_opened_L = np.zeros(self._levels, dtype=np.int64)  # so far, by depth
        self.num_scored = 0  # children of all nodes opened so far
        self._searcher = searcher
        self._catalog = catalog
        self._whole = Candidates(catalog.trie)
        self._banned_N = np.zeros(len(catalog), dtype=bool)  # all False between requests
        has_shared_sids = len(catalog.trie) < len(catalog)
        self._memory = TreeMemory(neighbours, catalog) if neighbours is not None else None
        self._first_row = catalog.first_row if has_shared_sids else None

    def remembering(self, neighbours: Neighbours) -> "Finisher":
        """Return a finisher with other neighbours of the same items, at the cost of a small object.

        Both share the model, trees and room, so they may not work at the same time. Encoded
        histories and candidates of one fit the other. Raises ValueError for neighbours of another
        number of items or with other settings, and if this finisher has no memory.
        """
        if self._memory is None:
            raise ValueError("a finisher without a memory, expected one with neighbours")
        other = copy(self)
        other._memory = self._memory.with_neighbours(neighbours)
        other.num_opened_L, other.num_scored = np.zeros_like(self.num_opened_L), 0
        return other

    @property
    def precision(self) -> str:
        return self._searcher.precision

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @property
    def neighbours(self) -> Neighbours | None:
        """Return the neighbours of the memory; None without a memory."""
        return self._memory.neighbours if self._memory is not None else None

    @property
    def num_opened(self) -> int:
        return int(self.num_opened_L.sum())

    @property
    def window(self) -> int:
        return self._searcher.config.window

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """Encode catalog rows, oldest first. Raises ValueError for two windows or more."""
        return self.extend(None, rows)

    def extend(self, state: KeptHistory | None, rows: Sequence[int]) -> KeptHistory:
        """Return a new state: `state` with more rows appended. Does not change `state`."""
        num_items = len(rows) + (state.num_items if state else 0)
        if num_items >= 2 * self.window:
            raise ValueError(
                f"{num_items} items, expected below {2 * self.window}: cut to a window"
            )
        row_M = np.array(rows, dtype=np.int64)
        encoded = self._searcher.extend(state.encoded if state else None, self._catalog.sids[row_M])
        return KeptHistory(encoded, self._recent(state, row_M))

    def _recent(self, state: KeptHistory | None, row_M: Ints) -> Ints:
        """Return the newest rows that give evidence, newest first."""
        if self._memory is None:
            return _NO_ROWS
        newest_M = row_M[::-1]
        older = state.recent if state else _NO_ROWS
        return np.concatenate([newest_M, older])[: self._memory.settings.recent]

    def candidates(self, prefixes: Sequence[Prefix]) -> Candidates:
        """Resolve `prefixes` to a tree, to be kept. Prefixes outside the catalog are left out."""
        return self.prepare(resolve(self._catalog.trie, prefixes))

    def own_prefixes(self, state: KeptHistory, *, count: int) -> Candidates:
        """Return the tree below the `count` legal prefixes that `rank_prefixes` ranks first."""
        nodes = self.rank_prefixes(state, count=count)
        return self.prepare(from_nodes(self._catalog.trie, nodes))

    def rank_prefixes(self, state: KeptHistory, *, count: int) -> Ints:
        """Return the trie nodes of `score_prefixes`."""
        return self.score_prefixes(state, count=count).entry

    def score_prefixes(self, state: KeptHistory, *, count: int) -> Found:
        """Return the `count` best prefixes as trie nodes, best first; ties by SID.

        A score is log P(prefix) and the largest bonus of an item below.
        """
        depth = self._catalog.space.prefix_depth
        return self._search(state, self._whole, depth, k=count, allowed=None).found

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
        night: NightBonus | None = None,
    ) -> list[Scored]:
        """Return the k best allowed items among `candidates`, best first; ties by catalog row.

        Exact: equal to scoring every item of the catalog and keeping the allowed ones
        below the prefixes. A SID shared by several items expands to all of them. Items with a
        score that is not finite are left out.

        Args:
            exclude: catalog rows to leave out.
            allowed_N: mask over the catalog's rows.
            night: what a night adds to the scores; needs a memory, whose scale is above 0.
        """
        allowed = AllowedRows(self._first_row, self._banned_N, allowed_N)
        with self._ban(exclude):
            searched = self._search(
                state, candidates, self._levels, k=k, allowed=allowed, night=night
            )
        found = searched.found
        columns = found.entry.tolist(), found.logprob.tolist(), found.score.tolist()
        if not searched.reasons:
            return [Scored(*values) for values in zip(*columns, strict=True)]
        return [Scored(*values) for values in zip(*columns, searched.reasons, strict=True)]

    @property
    def whole(self) -> Candidates:
        """Return the tree of the whole catalog."""
        return self._whole

    @property
    def takes_nights(self) -> bool:
        """Tell if a night can add to the scores."""
        return self._memory is not None and self._memory.settings.scale > 0

    def _recalled(self, state: KeptHistory, night: NightBonus | None) -> Recalled | None:
        if night is not None and not self.takes_nights:
            raise ValueError("a night's bonus, expected a memory with a scale above 0 beside it")
        if self._memory is None or not (len(state.recent) or night is not None):
            return None
        return Recalled(self._memory, state.recent, night)

    @contextmanager
    def _ban(self, rows: Collection[int]) -> Iterator[None]:
        banned = np.fromiter(rows, dtype=np.int64, count=len(rows))
        self._banned_N[banned] = True
        try:
            yield
        finally:
            self._banned_N[banned] = False

    def prepare(self, candidates: Candidates) -> Candidates:
        """Do a request's work that depends on the candidates alone; returns them."""
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
        night: NightBonus | None = None,
    ) -> Searched:
        if not k:
            return Searched.nothing(self._levels)
        searched = self._searcher.search(
            state.encoded,
            tree,
            goal=goal,
            k=k,
            allowed=allowed,
            recalled=self._recalled(state, night),
        )
        self.num_opened_L += searched.num_opened_L
        self.num_scored += searched.num_scored
        return searched
