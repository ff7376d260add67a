"""The exact finish of Eq. 11: the best items below a set of prefixes, best first.

The same items as scoring all of them, for a fraction of the nodes (`models.best_first`). No beam,
no illegal SID, no approximation. Knows nothing of Redis or HTTP.
"""

# C = leaves, R = catalog rows, N = rows of the catalog

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.best_first import BestFirst, Found, Ints, Keep, Logprobs
from models.candidates import Candidates, Flat, from_nodes, resolve
from models.catalog import Catalog
from models.runtime import HistoryState, Near, Runtime
from models.sid import Prefix
from models.trie import expand_ranges

# How peaked the model is, as `BestFirst` guesses it, follows what it meets: a second sweep makes
# the next guess more cautious, a single one bolder. On 150 real users a constant 0.7 opened 50
# nodes in 2.8 calls, 1.0 opened 73 in 2.1, 0.4 52 in 3.9 (exactness needs 41). A flat model ends
# at the top, where one call a depth does it all, as without pruning.
_FIRST_SPREAD, _MORE_CAUTIOUS, _BOLDER = 0.7, 0.06, -0.03
_BOLDEST, _MOST_CAUTIOUS = 0.3, 4.0

# A tree of so few nodes is decoded whole: on users with 34 prefixes the search opened 42 of 49
# nodes and took 0.25 ms of its own.
WHOLE_NODES = 64


class Scored(NamedTuple):
    """A catalog row and log P(its SID | history) by the online model (Eq. 11)."""

    row: int
    logprob: float


class Finisher:
    """Finishes on one catalog with one runtime. Not thread-safe."""

    def __init__(
        self, runtime: Runtime, catalog: Catalog, *, whole_nodes: float = WHOLE_NODES
    ) -> None:
        """whole_nodes: trees of at most so many are decoded whole; with inf all, with 0 none."""
        self.num_decoded = 0  # nodes so far
        self._runtime = runtime
        self._catalog = catalog
        self._whole = Candidates(catalog.trie)
        self._whole_nodes = whole_nodes
        self._spreads: defaultdict[int, float] = defaultdict(lambda: _FIRST_SPREAD)  # by goal
        self._banned_N = np.zeros(len(catalog), dtype=bool)  # False again after every request
        self._has_shared_sids = len(catalog.trie) < len(catalog)

    @property
    def window(self) -> int:
        return self._runtime.config.window

    def encode(self, rows: Sequence[int]) -> HistoryState:
        """Catalog rows, oldest first. Raises ValueError for two windows of them or more."""
        return self.extend(None, rows)

    def extend(self, state: HistoryState | None, rows: Sequence[int]) -> HistoryState:
        num_items = len(rows) + (state.num_items if state else 0)
        if num_items >= 2 * self.window:
            raise ValueError(
                f"{num_items} items, expected below {2 * self.window}: cut to a window"
            )
        return self._runtime.extend(state, self._catalog.sids[np.array(rows, dtype=np.int64)])

    def candidates(self, prefixes: Sequence[Prefix]) -> Candidates:
        """The tree below `prefixes`, to be kept; prefixes that the catalog lacks are left out."""
        return self._ready(resolve(self._catalog.trie, prefixes))

    def own_prefixes(self, state: HistoryState, *, count: int) -> Candidates:
        """Below the online model's own `count` best legal prefixes by log P(prefix | history)."""
        nodes = self.rank_prefixes(state, count=count)
        return self._ready(from_nodes(self._catalog.trie, nodes))

    def rank_prefixes(self, state: HistoryState, *, count: int) -> Ints:
        """The `count` best prefixes as trie nodes, best first; ties by SID."""
        depth = self._catalog.space.prefix_depth
        found = self._search(state, self._whole, depth, k=count, keep=_everything)
        return found.entry[:count]

    def union(self, first: Candidates, second: Candidates) -> Candidates:
        both = np.concatenate([first.prefix_nodes, second.prefix_nodes])
        return self._ready(from_nodes(self._catalog.trie, both))

    def finish(
        self,
        state: HistoryState,
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
        with self._ban(exclude):
            levels = self._catalog.space.levels
            first_row = self._catalog.first_row if self._has_shared_sids else None
            keep = _AllowedRows(first_row, self._banned_N, allowed_N).keep
            if candidates.num_nodes <= self._whole_nodes:
                found = self._decode_whole(state, candidates.flat(), k=k, keep=keep)
            else:
                found = self._search(state, candidates, levels, k=k, keep=keep)
        best = zip(found.entry[:k].tolist(), found.logprob[:k].tolist(), strict=True)
        return [Scored(row, logprob) for row, logprob in best]

    @contextmanager
    def _ban(self, rows: Collection[int]) -> Iterator[None]:
        banned = np.fromiter(rows, dtype=np.int64, count=len(rows))
        self._banned_N[banned] = True
        try:
            yield
        finally:
            self._banned_N[banned] = False

    def _ready(self, candidates: Candidates) -> Candidates:
        """With all that a request would otherwise have to lay out."""
        if candidates.num_nodes <= self._whole_nodes:
            candidates.flat()
        return candidates

    def _decode_whole(self, state: HistoryState, flat: Flat, *, k: int, keep: Keep) -> Found:
        """Every node of a tree, a depth at a time: nothing to decide, nothing to look up."""
        logp_M = state.logp_V[flat.levels[0].code_M].astype(np.float64)
        near: list[Near] = []
        for level, below in pairwise(flat.levels):
            self.num_decoded += len(level.parent_M)
            decoded = self._runtime.decode(state, level.codes_MD, near)
            logp_M = logp_M[below.parent_M] + decoded.logp_MV[below.parent_M, below.code_M]
            if decoded.own is not None:
                near = [above.take(below.parent_M) for above in (*near, decoded.own)]
        is_number = np.isfinite(logp_M)
        return keep(flat.leaf_C[is_number], logp_M[is_number]).best(k).sorted()

    def _search(
        self, state: HistoryState, tree: Candidates, goal: int, *, k: int, keep: Keep
    ) -> Found:
        search = BestFirst(
            self._runtime, state, tree, goal=goal, k=k, keep=keep, spread=self._spreads[goal]
        )
        found = search.run()
        self.num_decoded += search.num_decoded
        change = _MORE_CAUTIOUS if search.num_sweeps > 1 else _BOLDER
        self._spreads[goal] = min(max(self._spreads[goal] + change, _BOLDEST), _MOST_CAUTIOUS)
        return found


def _everything(at_C: Ints, logp_C: Logprobs) -> Found:
    return Found(at_C, logp_C)


@dataclass(frozen=True)
class _AllowedRows:
    """Leaves to the catalog rows that share their SIDs and may be recommended.

    first_row: None where every leaf is one row, of the same number.
    """

    first_row: Ints | None
    banned_N: NDArray[np.bool_]
    allowed_N: NDArray[np.bool_] | None

    def keep(self, leaf_C: Ints, logp_C: Logprobs) -> Found:
        if self.first_row is None:
            row_R, logp_R = leaf_C, logp_C
        else:
            owner_R, row_R = expand_ranges(self.first_row, leaf_C)
            logp_R = logp_C[owner_R]
        is_kept = ~self.banned_N[row_R]
        if self.allowed_N is not None:
            is_kept &= self.allowed_N[row_R]
        return Found(row_R[is_kept], logp_R[is_kept])
