"""Exact best-first search over a tree of SIDs, with the online model as its judge.

log P(node | history) bounds everything below the node, so nodes are decoded in descending order
until no bound left reaches the K-th best found. Knows trees and runtimes. Knows nothing of items,
users or requests. `models/kernel/search.h` is the same in C.
"""

# M = tree nodes of one depth, C = their children, L = levels

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.candidates import AllowedRows, Candidates, Flat
from models.runtime import HistoryState, Near, Runtime

# How peaked the model is, as `BestFirst` guesses it, follows what it meets: a second sweep makes
# the next guess more cautious, a single one bolder. On 150 real users a constant 0.7 opened 50
# nodes in 2.8 calls, 1.0 opened 73 in 2.1, 0.4 52 in 3.9 (exactness needs 41). A flat model ends
# at the top, where one call a depth does it all, as without pruning.
_FIRST_SPREAD, _MORE_CAUTIOUS, _BOLDER = 0.7, 0.06, -0.03
_BOLDEST, _MOST_CAUTIOUS = 0.3, 4.0

# A tree of so few nodes is decoded whole: on users with 34 prefixes the search opened 42 of 49
# nodes and took 0.25 ms of its own.
WHOLE_NODES = 64

Ints = NDArray[np.int64]
Logprobs = NDArray[np.float64]


class Found(NamedTuple):
    """What the search is for, best first: catalog rows, or trie nodes for prefixes."""

    entry: Ints
    logprob: Logprobs

    def join(self, others: "Found") -> "Found":
        if not len(self.entry):
            return others
        return Found(
            np.concatenate([self.entry, others.entry]),
            np.concatenate([self.logprob, others.logprob]),
        )

    def best(self, k: int) -> "Found":
        """The k best, and others that tie with the last of them."""
        is_best = self.logprob >= kth_best(self.logprob, k)
        return Found(self.entry[is_best], self.logprob[is_best])

    def sorted(self) -> "Found":
        """Best first; ties by entry."""
        order = np.lexsort((self.entry, -self.logprob))
        return Found(self.entry[order], self.logprob[order])

    def first(self, k: int) -> "Found":
        return Found(self.entry[:k], self.logprob[:k])


Keep = Callable[[Ints, Logprobs], Found]


class Searched(NamedTuple):
    """num_decoded_L: how many nodes of each depth were decoded."""

    found: Found
    num_decoded_L: Ints


class NumpySearch:
    """The search over any runtime that decodes a depth at a time. Not thread-safe."""

    def __init__(self, runtime: Runtime, *, whole_nodes: float = WHOLE_NODES) -> None:
        """whole_nodes: trees of at most so many are decoded whole; with inf all, with 0 none."""
        self.config = runtime.config
        self.precision = runtime.precision
        self._runtime = runtime
        self._whole_nodes = whole_nodes
        self._spreads: defaultdict[int, float] = defaultdict(lambda: _FIRST_SPREAD)  # by goal

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        return self._runtime.extend(past, sids_ML)

    def prepare(self, tree: Candidates) -> None:
        if tree.num_nodes <= self._whole_nodes:
            tree.flat()

    def search(
        self,
        state: HistoryState,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
    ) -> Searched:
        keep = Found if allowed is None else _Kept(allowed).keep
        if allowed is not None and tree.num_nodes <= self._whole_nodes:
            return self._decode_whole(state, tree.flat(), k=k, keep=keep)
        search = BestFirst(
            self._runtime, state, tree, goal=goal, k=k, keep=keep, spread=self._spreads[goal]
        )
        found = search.run()
        change = _MORE_CAUTIOUS if search.num_sweeps > 1 else _BOLDER
        self._spreads[goal] = min(max(self._spreads[goal] + change, _BOLDEST), _MOST_CAUTIOUS)
        return Searched(found.first(k), search.num_decoded_L)

    def _decode_whole(self, state: HistoryState, flat: Flat, *, k: int, keep: Keep) -> Searched:
        """Every node of a tree, a depth at a time: nothing to decide, nothing to look up."""
        num_decoded_L = np.zeros(self.config.levels, dtype=np.int64)
        logp_M = state.logp_V[flat.levels[0].code_M].astype(np.float64)
        near: list[Near] = []
        for depth, (level, below) in enumerate(pairwise(flat.levels), start=1):
            num_decoded_L[depth] = len(level.parent_M)
            decoded = self._runtime.decode(state, level.codes_MD, near)
            logp_M = logp_M[below.parent_M] + decoded.logp_MV[below.parent_M, below.code_M]
            if decoded.own is not None:
                near = [above.take(below.parent_M) for above in (*near, decoded.own)]
        is_number = np.isfinite(logp_M)
        found = keep(flat.leaf_C[is_number], logp_M[is_number]).best(k).sorted()
        return Searched(found.first(k), num_decoded_L)


class _Kept(NamedTuple):
    """Leaves to the catalog rows that may be recommended."""

    allowed: AllowedRows

    def keep(self, leaf_C: Ints, logp_C: Logprobs) -> Found:
        owner_R, row_R = self.allowed.expand(leaf_C)
        return Found(row_R, logp_C[owner_R])


class Pending(NamedTuple):
    """Nodes that are not decoded yet. at: as the tree numbers them; above: slot of the parent.

    logprob: log P(node | history), a bound on all below. num_leaves: how many those are.
    """

    at: Ints
    above: Ints
    logprob: Logprobs
    num_leaves: Ints

    def take(self, chosen: NDArray[np.bool_]) -> "Pending":
        return Pending(
            self.at[chosen], self.above[chosen], self.logprob[chosen], self.num_leaves[chosen]
        )

    def join(self, others: "Pending") -> "Pending":
        return Pending(
            np.concatenate([self.at, others.at]),
            np.concatenate([self.above, others.above]),
            np.concatenate([self.logprob, others.logprob]),
            np.concatenate([self.num_leaves, others.num_leaves]),
        )


class Opened(NamedTuple):
    """Decoded nodes of one depth, by slot: their keys and values, and the slot above each."""

    near: Near
    above: Ints


class BestFirst:
    """Best first over the tree, a depth at a time.

    In the first sweep a depth opens the nodes that are likely to hold the K best; afterwards those
    whose bound reaches the K-th best found. It ends when none does.
    """

    def __init__(
        self,
        runtime: Runtime,
        state: HistoryState,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        keep: Keep,
        spread: float,
    ) -> None:
        """goal: the depth of what is searched for; keep: turns nodes of it into results.

        spread: a node's best leaves are guessed to have p / n ** spread of its p, n being how many
        there are: 0 where one has it all, 1 where they share evenly. A wrong guess costs time,
        never a result.
        """
        self.num_decoded_L = np.zeros(runtime.config.levels, dtype=np.int64)
        self.num_sweeps = 0
        self._spread = spread
        self._runtime = runtime
        self._state = state
        self._tree = tree
        self._goal = goal
        self._k = k
        self._keep = keep
        self._worst = -np.inf  # the K-th best found
        self._pending: dict[int, Pending] = {}
        self._opened: dict[int, Opened] = {}
        self._found = Found(np.empty(0, dtype=np.int64), np.empty(0))

    def run(self) -> Found:
        """The k best, and others that tie with the last of them; best first, ties by entry."""
        first = self._tree.first
        logp_C = self._state.logp_V[first.code_C].astype(np.float64)
        self._reach(1, first.node_C, first.parent_C, logp_C)
        wanted = self._k
        while self._pending:
            self.num_sweeps += 1
            for depth in range(1, self._goal):
                if depth in self._pending:
                    self._open(depth, self._threshold(wanted))
            wanted *= 2
            for depth, nodes in list(self._pending.items()):
                if nodes.logprob.max() < self._worst:
                    del self._pending[depth]
        return self._found.sorted()

    def _threshold(self, wanted: int) -> float:
        """The K-th best found, or a guess at where the next `wanted` leaves begin."""
        if len(self._found.entry) >= self._k:
            return self._worst
        likely, num_leaves = self._likely(*self._pending.values())
        order = np.argsort(-likely)
        enough = int(np.searchsorted(np.cumsum(num_leaves[order]), wanted))
        return float(likely[order[min(enough, len(order) - 1)]])

    def _likely(self, *pending: Pending) -> tuple[Logprobs, Ints]:
        """A guess at the best leaves below each node, and how many leaves there are."""
        nodes = pending[0]
        for others in pending[1:]:
            nodes = nodes.join(others)
        return nodes.logprob - self._spread * np.log1p(nodes.num_leaves), nodes.num_leaves

    def _open(self, depth: int, threshold: float) -> None:
        """Decode the pending nodes of one depth whose bound reaches the threshold."""
        nodes = self._pending.pop(depth)
        is_reached = nodes.logprob >= threshold
        num_reached = int(np.count_nonzero(is_reached))
        if num_reached < len(is_reached):
            self._pending[depth] = nodes.take(~is_reached)
            nodes = nodes.take(is_reached)
        if not num_reached:
            return
        self.num_decoded_L[depth] += num_reached
        decoded = self._runtime.decode(
            self._state, self._tree.codes(depth, nodes.at), self._near(depth, nodes.above)
        )
        parent_C, at_C, code_C = self._tree.children(depth, nodes.at)
        logp_C = nodes.logprob[parent_C] + decoded.logp_MV[parent_C, code_C]
        first_slot = self._remember(depth, decoded.own, nodes.above)
        self._reach(depth + 1, at_C, parent_C + first_slot, logp_C)

    def _reach(self, depth: int, at_C: Ints, above_C: Ints, logp_C: Logprobs) -> None:
        """Children of opened nodes: results at the goal, pending before it."""
        is_number = np.isfinite(logp_C)
        if not is_number.all():
            at_C, above_C, logp_C = at_C[is_number], above_C[is_number], logp_C[is_number]
        if depth == self._goal:
            self._found = self._found.join(self._keep(at_C, logp_C).best(self._k)).best(self._k)
            self._worst = kth_best(self._found.logprob, self._k)
            return
        if not len(at_C):
            return
        nodes = Pending(at_C, above_C, logp_C, self._tree.num_leaves(depth, at_C))
        if (older := self._pending.get(depth)) is not None:
            nodes = older.join(nodes)
        self._pending[depth] = nodes

    def _near(self, depth: int, above_M: Ints) -> list[Near]:
        """Keys and values of the nodes on the way, from depth 1 to the parents."""
        way: list[Near] = []
        for at in range(depth - 1, 0, -1):
            opened = self._opened[at]
            way.insert(0, opened.near.take(above_M))
            above_M = opened.above[above_M]
        return way

    def _remember(self, depth: int, own: Near | None, above_M: Ints) -> int:
        """Keep what nodes below will attend to; the first slot that it has."""
        if own is None or depth == self._goal - 1:
            return 0
        older = self._opened.get(depth)
        first_slot = len(older.above) if older else 0
        if older:
            own, above_M = older.near.join(own), np.concatenate([older.above, above_M])
        self._opened[depth] = Opened(own, above_M)
        return first_slot


def kth_best(logprob: Logprobs, k: int) -> float:
    """-inf while there are fewer than k."""
    num = len(logprob)
    return float(np.partition(logprob, num - k)[num - k]) if num >= k else -np.inf
