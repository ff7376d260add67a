"""The exact finish of Eq. 11: the best items below a set of prefixes, best first.

log P(prefix | history) bounds every item below that prefix, so nodes are decoded in descending
order until no bound left reaches the K-th best allowed item: the same items as scoring all of
them, for a fraction of the nodes. No beam, no illegal SID, no approximation. Knows nothing of
Redis or HTTP.
"""

# M = tree nodes of one depth, C = their children, R = catalog rows found, P = prefixes, L = levels

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.candidates import Candidates, from_nodes, resolve
from models.catalog import Catalog
from models.runtime import HistoryState, Near, Runtime
from models.sid import Prefix
from models.trie import expand_ranges

# A leaf among n is taken to have p / n ** 0.7 of its node's p, between an even share and all of it.
# On 150 real users 0.7 opened 50 nodes in 2.8 calls, 1.0 opened 73 in 2.1, 0.4 52 in 3.9 (the least
# that exactness needs are 41); a guess costs time only, never an item.
_SPREAD = 0.7

Ints = NDArray[np.int64]
Logprobs = NDArray[np.float64]


class Scored(NamedTuple):
    """A catalog row and log P(its SID | history) by the online model (Eq. 11)."""

    row: int
    logprob: float


class _Found(NamedTuple):
    """What the search is for, best first: catalog rows, or trie nodes for prefixes."""

    entry: Ints
    logprob: Logprobs

    def join(self, others: "_Found") -> "_Found":
        return _Found(
            np.concatenate([self.entry, others.entry]),
            np.concatenate([self.logprob, others.logprob]),
        )


_Keep = Callable[[Ints, Logprobs], _Found]


def _everything(at_C: Ints, logp_C: Logprobs) -> _Found:
    return _Found(at_C, logp_C)


@dataclass(frozen=True)
class _AllowedRows:
    """Leaves to the catalog rows that share their SIDs and may be recommended.

    first_row: None where every leaf is one row, of the same number.
    """

    first_row: Ints | None
    banned_N: NDArray[np.bool_]
    allowed_N: NDArray[np.bool_] | None

    def keep(self, leaf_C: Ints, logp_C: Logprobs) -> _Found:
        if self.first_row is None:
            row_R, logp_R = leaf_C, logp_C
        else:
            owner_R, row_R = expand_ranges(self.first_row, leaf_C)
            logp_R = logp_C[owner_R]
        is_kept = ~self.banned_N[row_R]
        if self.allowed_N is not None:
            is_kept &= self.allowed_N[row_R]
        return _Found(row_R[is_kept], logp_R[is_kept])


class Finisher:
    """Finishes on one catalog with one runtime. Not thread-safe."""

    def __init__(self, runtime: Runtime, catalog: Catalog, *, prune: bool = True) -> None:
        """prune: False decodes every node, for comparison."""
        self.num_decoded = 0  # nodes so far
        self._runtime = runtime
        self._catalog = catalog
        self._whole = Candidates(catalog.trie)
        self._prune = prune
        self._banned_N = np.zeros(len(catalog), dtype=bool)  # False again after every request
        self._has_shared_sids = len(catalog.trie) < len(catalog)

    @property
    def window(self) -> int:
        return self._runtime.config.window

    def encode(self, rows: Sequence[int]) -> HistoryState:
        """Catalog rows, oldest first, fewer than two windows of them (`models.history`)."""
        return self.extend(None, rows)

    def extend(self, state: HistoryState | None, rows: Sequence[int]) -> HistoryState:
        return self._runtime.extend(state, self._catalog.sids[np.array(rows, dtype=np.int64)])

    def candidates(self, prefixes: Sequence[Prefix]) -> Candidates:
        """The tree below `prefixes`, to be kept; prefixes that the catalog lacks are left out."""
        return resolve(self._catalog.trie, prefixes)

    def own_prefixes(self, state: HistoryState, *, count: int) -> Candidates:
        """Below the online model's own `count` best legal prefixes by log P(prefix | history)."""
        return from_nodes(self._catalog.trie, self.rank_prefixes(state, count=count))

    def rank_prefixes(self, state: HistoryState, *, count: int) -> Ints:
        """The `count` best prefixes as trie nodes, best first; ties by SID."""
        depth = self._catalog.space.prefix_depth
        found = self._search(state, self._whole, depth, k=count, keep=_everything)
        return found.entry[:count]

    def union(self, first: Candidates, second: Candidates) -> Candidates:
        both = np.concatenate([first.prefix_nodes, second.prefix_nodes])
        return from_nodes(self._catalog.trie, both)

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

    def _search(
        self, state: HistoryState, tree: Candidates, goal: int, *, k: int, keep: _Keep
    ) -> "_Found":
        search = _Search(self._runtime, state, tree, goal, keep)
        found = search.run(k, prune=self._prune)
        self.num_decoded += search.num_decoded
        return found


class _Pending(NamedTuple):
    """Nodes that are not decoded yet. at: as the tree numbers them; above: slot of the parent.

    logprob: log P(node | history), a bound on all below. likely: a guess at the best leaves below.
    num_leaves: how many those are.
    """

    at: Ints
    above: Ints
    logprob: Logprobs
    likely: Logprobs
    num_leaves: Ints

    def take(self, chosen: NDArray[np.bool_]) -> "_Pending":
        return _Pending(
            self.at[chosen],
            self.above[chosen],
            self.logprob[chosen],
            self.likely[chosen],
            self.num_leaves[chosen],
        )

    def join(self, others: "_Pending") -> "_Pending":
        return _Pending(
            np.concatenate([self.at, others.at]),
            np.concatenate([self.above, others.above]),
            np.concatenate([self.logprob, others.logprob]),
            np.concatenate([self.likely, others.likely]),
            np.concatenate([self.num_leaves, others.num_leaves]),
        )


class _Opened(NamedTuple):
    """Decoded nodes of one depth, by slot: their keys and values, and the slot above each."""

    near: Near
    above: Ints


class _Search:
    """Best first over the tree, a depth at a time.

    In the first sweep a depth opens the nodes that are likely to hold the K best; afterwards those
    whose bound reaches the K-th best found. It ends when none does.
    """

    def __init__(
        self, runtime: Runtime, state: HistoryState, tree: Candidates, goal: int, keep: _Keep
    ) -> None:
        self.num_decoded = 0
        self._runtime = runtime
        self._state = state
        self._tree = tree
        self._goal = goal
        self._keep = keep
        self._pending: dict[int, _Pending] = {}
        self._opened: dict[int, _Opened] = {}
        self._found = _Found(np.empty(0, dtype=np.int64), np.empty(0))

    def run(self, k: int, *, prune: bool) -> _Found:
        first = self._tree.first
        logp_C = self._state.logp_V[first.code_C].astype(np.float64)
        self._reach(1, first.node_C, first.parent_C, logp_C)
        wanted = k
        while self._pending:
            for depth in range(1, self._goal):
                if depth in self._pending:
                    self._open(depth, self._threshold(wanted, k) if prune else -np.inf)
            wanted *= 2
            worst = self._kth_best(k)
            self._pending = {
                depth: nodes
                for depth, nodes in self._pending.items()
                if (nodes.logprob >= worst).any()
            }
        order = np.lexsort((self._found.entry, -self._found.logprob))[:k]
        return _Found(self._found.entry[order], self._found.logprob[order])

    def _threshold(self, wanted: int, k: int) -> float:
        """The K-th best found, or a guess at where the next `wanted` leaves begin."""
        if len(self._found.entry) >= k:
            return self._kth_best(k)
        likely = np.concatenate([nodes.likely for nodes in self._pending.values()])
        num_leaves = np.concatenate([nodes.num_leaves for nodes in self._pending.values()])
        order = np.argsort(-likely)
        enough = np.searchsorted(np.cumsum(num_leaves[order]), wanted)
        return float(likely[order[min(int(enough), len(order) - 1)]])

    def _kth_best(self, k: int) -> float:
        logprob = self._found.logprob
        return float(np.partition(logprob, -k)[-k]) if len(logprob) >= k else -np.inf

    def _open(self, depth: int, threshold: float) -> None:
        """Decode the pending nodes of one depth whose bound reaches the threshold."""
        pending = self._pending.pop(depth)
        is_reached = pending.logprob >= threshold
        nodes = pending.take(is_reached)
        if len(nodes.at) < len(pending.at):
            self._pending[depth] = pending.take(~is_reached)
        if not len(nodes.at):
            return
        self.num_decoded += len(nodes.at)
        decoded = self._runtime.decode(
            self._state, self._tree.codes(depth, nodes.at), self._near(depth, nodes.above)
        )
        parent_C, at_C, code_C = self._tree.children(depth, nodes.at)
        logp_C = nodes.logprob[parent_C] + decoded.logp_MV[parent_C, code_C]
        slot_M = self._remember(depth, decoded.own, nodes.above)
        self._reach(depth + 1, at_C, slot_M[parent_C], logp_C)

    def _reach(self, depth: int, at_C: Ints, above_C: Ints, logp_C: Logprobs) -> None:
        """Children of opened nodes: results at the goal, pending before it."""
        is_number = np.isfinite(logp_C)
        if not is_number.all():
            at_C, above_C, logp_C = at_C[is_number], above_C[is_number], logp_C[is_number]
        if depth == self._goal:
            found = self._keep(at_C, logp_C)
            self._found = self._found.join(found)
            return
        num_leaves = self._tree.num_leaves(depth, at_C)
        likely_C = logp_C - _SPREAD * np.log(num_leaves)
        nodes = _Pending(at_C, above_C, logp_C, likely_C, num_leaves)
        if (older := self._pending.get(depth)) is not None:
            nodes = older.join(nodes)
        if len(nodes.at):
            self._pending[depth] = nodes

    def _near(self, depth: int, above_M: Ints) -> list[Near]:
        """Keys and values of the nodes on the way, from depth 1 to the parents."""
        way: list[Near] = []
        for at in range(depth - 1, 0, -1):
            keys, values = self._opened[at].near
            way.insert(0, Near(keys[:, above_M], values[:, above_M]))
            above_M = self._opened[at].above[above_M]
        return way

    def _remember(self, depth: int, own: Near | None, above_M: Ints) -> Ints:
        """Keep what nodes below will attend to; the slots that it has."""
        older = self._opened.get(depth)
        first = len(older.above) if older else 0
        slot_M = np.arange(first, first + len(above_M), dtype=np.int64)
        if own is not None and depth < self._goal - 1:
            if older:
                own = Near(
                    np.concatenate([older.near.keys, own.keys], axis=1),
                    np.concatenate([older.near.values, own.values], axis=1),
                )
                above_M = np.concatenate([older.above, above_M])
            self._opened[depth] = _Opened(own, above_M)
        return slot_M
