"""Exact best-first search over a tree of SIDs, scored by the online model.

A result's score is its log-probability and the bonus that a memory gives it. log P(node | history)
and the largest bonus below the node bound every score below it. So nodes are opened in descending
order of that bound until none that remains reaches the K-th best result. Opening a node takes a
softmax over all of its children in the catalog, also over children that a request may not choose
(Eq. 11).
Knows trees and runtimes. Knows nothing of items, users or requests.
`models/online/kernel/search.h` does the same in C.
"""

# M = tree nodes of one depth, C = children, A = all children in the catalog, L = levels

from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates
from models.online.found import Found, Ints, Logprobs, Searched, kth_best, nothing_found
from models.online.memory.tree_memory import Recalled, TreeMemory
from models.online.nodes import NodeTables
from models.online.onnx_runtime import HistoryState, Runtime

# `BestFirst` guesses how peaked the model is. The guess adapts: a second sweep makes the next guess
# more cautious, a single sweep makes it bolder.
_FIRST_SPREAD, _MORE_CAUTIOUS, _BOLDER = 0.7, 0.06, -0.03
_BOLDEST, _MOST_CAUTIOUS = 0.3, 4.0


class NumpySearch:
    """Search over any runtime, one depth at a time. Not thread-safe."""

    def __init__(self, runtime: Runtime, *, prunes: bool = True) -> None:
        """Search with a runtime; `prunes=False` opens every node, for comparison."""
        self.config = runtime.config
        self.precision = runtime.precision
        self._runtime = runtime
        self._prunes = prunes
        self._spreads: defaultdict[int, float] = defaultdict(lambda: _FIRST_SPREAD)  # by goal

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        return self._runtime.extend(past, sids_ML)

    def prepare(self, tree: Candidates) -> None:
        self._runtime.nodes.own_rows(tree.trie)

    def search(
        self,
        state: HistoryState,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
        recalled: Recalled | None = None,
    ) -> Searched:
        scores = _Plain() if recalled is None else _Remembered(recalled.memory)
        spread = self._spreads[goal] if self._prunes else None
        search = BestFirst(
            Softmaxes(self._runtime.nodes, state, tree),
            goal=goal, k=k, allowed=allowed, scores=scores, spread=spread,
        )  # fmt: skip
        with _held(recalled):
            found = search.run()
        change = _MORE_CAUTIOUS if search.num_sweeps > 1 else _BOLDER
        self._spreads[goal] = min(max(self._spreads[goal] + change, _BOLDEST), _MOST_CAUTIOUS)
        found = found.first(k)
        reasons: list[tuple[int, ...]] = []
        if recalled is not None and allowed is not None:
            neighbours = recalled.memory.neighbours
            reasons = neighbours.reasons(recalled.recent, found.entry.tolist())
        return Searched(found, search.num_opened_L, search.num_scored, reasons)


def _held(recalled: Recalled | None) -> AbstractContextManager[None]:
    return (
        nullcontext()
        if recalled is None
        else recalled.memory.recalled(recalled.recent, recalled.night)
    )


class _Scores(Protocol):
    """Scores and bounds, from log-probabilities."""

    def rows(self, row_R: Ints, logp_R: Logprobs) -> Logprobs:
        """Return the scores of catalog rows."""

    def bounds(self, depth: int, node_M: Ints, logp_M: Logprobs) -> Logprobs:
        """Return a bound of the scores below trie nodes at `depth`."""


class _Plain:
    """Scores without a memory: the log-probabilities."""

    def rows(self, row_R: Ints, logp_R: Logprobs) -> Logprobs:
        return logp_R

    def bounds(self, depth: int, node_M: Ints, logp_M: Logprobs) -> Logprobs:
        return logp_M


class _Remembered(NamedTuple):
    """Scores with the bonus of a memory."""

    memory: TreeMemory

    def rows(self, row_R: Ints, logp_R: Logprobs) -> Logprobs:
        return logp_R + self.memory.row_bonus(row_R)

    def bounds(self, depth: int, node_M: Ints, logp_M: Logprobs) -> Logprobs:
        return logp_M + self.memory.node_bonus(depth, node_M)


class Opened(NamedTuple):
    """Children of opened nodes."""

    parent_C: Ints  # position of the parent among the opened nodes
    at_C: Ints  # number of the child in the tree
    logp_C: Logprobs  # log P(child | node)
    num_scored: int  # children of the opened nodes in the catalog


class Softmaxes:
    """Distributions over the children of the nodes of a tree, for one history."""

    def __init__(self, nodes: NodeTables, state: HistoryState, tree: Candidates) -> None:
        self.tree = tree
        self.levels = len(state.logits)
        self._nodes = nodes
        self._state = state
        self._own_rows = nodes.own_rows(tree.trie)

    def open(self, depth: int, at_M: Ints) -> Opened:
        """Return the children, within this tree, of its nodes `at_M` at `depth`."""
        node_M = self.tree.trie_nodes(depth, at_M)
        parent_A, node_A, code_A = self.tree.trie.expand(depth, node_M)
        logit_A = self._state.logits[depth][code_A].astype(np.float64)
        if (own := self._nodes.own[depth]) is not None:
            logit_A += own[self._own_rows[depth][node_A]] @ self._state.queries_LW[depth]
        first_M = np.flatnonzero(np.diff(parent_A, prepend=-1))
        logp_A = logit_A - _log_totals(logit_A, first_M)[parent_A]
        if depth >= len(self.tree.stages):
            return Opened(parent_A, node_A, logp_A, len(node_A))
        parent_C, at_C = self.tree.children(depth, at_M)
        begin_M = self.tree.trie.first_child[depth][node_M]
        place_C = first_M[parent_C] + self.tree.trie_nodes(depth + 1, at_C) - begin_M[parent_C]
        return Opened(parent_C, at_C, logp_A[place_C], len(node_A))


def _log_totals(logit_A: Logprobs, first_M: Ints) -> Logprobs:
    """Compute log-sum-exp of each segment that begins at `first_M`: (M,)."""
    if not len(first_M):
        return np.empty(0)
    largest_M = np.maximum.reduceat(logit_A, first_M)
    num_M = np.diff(first_M, append=len(logit_A))
    shares_A = np.exp(logit_A - np.repeat(largest_M, num_M))
    totals: Logprobs = largest_M + np.log(np.add.reduceat(shares_A, first_M))
    return totals


class Pending(NamedTuple):
    """Nodes that are not opened yet."""

    at: Ints  # numbers of the nodes in the tree
    logprob: Logprobs  # log P(node | history)
    bound: Logprobs  # of every score below
    num_leaves: Ints  # leaves below each node

    def take(self, chosen: NDArray[np.bool_]) -> "Pending":
        return Pending(
            self.at[chosen], self.logprob[chosen], self.bound[chosen], self.num_leaves[chosen]
        )

    def join(self, others: "Pending") -> "Pending":
        return Pending(
            np.concatenate([self.at, others.at]),
            np.concatenate([self.logprob, others.logprob]),
            np.concatenate([self.bound, others.bound]),
            np.concatenate([self.num_leaves, others.num_leaves]),
        )


class BestFirst:
    """One best-first search over a tree, one depth at a time.

    The first sweep opens, at each depth, the nodes that are likely to hold the K best. Later
    sweeps open the nodes whose bound reaches the K-th best result. The search ends when no bound
    does.
    """

    def __init__(
        self,
        softmaxes: Softmaxes,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
        scores: _Scores,
        spread: float | None,
    ) -> None:
        """Prepare a search.

        Args:
            goal: depth of the results.
            allowed: rows that may be results; None if nodes of the tree are the results.
            spread: a guess. The best leaf of a node with probability p and n leaves has
                p / n ** spread: 0 means one leaf has all of p, 1 means an even share. A wrong
                guess costs time, never a result. None opens every node.
        """
        self.num_opened_L = np.zeros(softmaxes.levels, dtype=np.int64)
        self.num_scored = 0
        self.num_sweeps = 0
        self._spread = spread
        self._softmaxes = softmaxes
        self._goal = goal
        self._k = k
        self._allowed = allowed
        self._scores = scores
        self._worst = -np.inf  # the K-th best found
        self._pending: dict[int, Pending] = {}
        self._found = nothing_found()

    def run(self) -> Found:
        """Return the k best, and all that tie with the last; best first, ties by entry."""
        self._open_nodes(0, np.zeros(1, dtype=np.int64), np.zeros(1))
        wanted = self._k
        while self._pending:
            self.num_sweeps += 1
            for depth in range(1, self._goal):
                if depth in self._pending:
                    self._open(depth, self._threshold(wanted))
            wanted *= 2
            for depth, nodes in list(self._pending.items()):
                if nodes.bound.max() < self._worst:
                    del self._pending[depth]
        return self._found.sorted()

    def _threshold(self, wanted: int) -> float:
        """Return the K-th best result, or a guess at the bound of the next `wanted` leaves."""
        if self._spread is None:
            return -np.inf
        if len(self._found.entry) >= self._k:
            return self._worst
        likely, num_leaves = self._likely(self._spread, *self._pending.values())
        order = np.argsort(-likely)
        enough = int(np.searchsorted(np.cumsum(num_leaves[order]), wanted))
        return float(likely[order[min(enough, len(order) - 1)]])

    def _likely(self, spread: float, *pending: Pending) -> tuple[Logprobs, Ints]:
        """Guess the score of each node's best leaf; return it with the leaf counts."""
        nodes = pending[0]
        for others in pending[1:]:
            nodes = nodes.join(others)
        return nodes.bound - spread * np.log1p(nodes.num_leaves), nodes.num_leaves

    def _open(self, depth: int, threshold: float) -> None:
        """Open the pending nodes of one depth whose bound reaches the threshold."""
        nodes = self._pending.pop(depth)
        is_reached = nodes.bound >= threshold
        num_reached = int(np.count_nonzero(is_reached))
        if num_reached < len(is_reached):
            self._pending[depth] = nodes.take(~is_reached)
            nodes = nodes.take(is_reached)
        if not num_reached:
            return
        self.num_opened_L[depth] += num_reached
        self._open_nodes(depth, nodes.at, nodes.logprob)

    def _open_nodes(self, depth: int, at_M: Ints, logp_M: Logprobs) -> None:
        opened = self._softmaxes.open(depth, at_M)
        self.num_scored += opened.num_scored
        self._reach(depth + 1, opened.at_C, logp_M[opened.parent_C] + opened.logp_C)

    def _reach(self, depth: int, at_C: Ints, logp_C: Logprobs) -> None:
        """Record children of opened nodes: results at the goal, pending above it."""
        is_number = np.isfinite(logp_C)
        if not is_number.all():
            at_C, logp_C = at_C[is_number], logp_C[is_number]
        if depth == self._goal:
            reached = self._results(depth, at_C, logp_C)
            self._found = self._found.join(reached.best(self._k)).best(self._k)
            self._worst = kth_best(self._found.score, self._k)
            return
        if not len(at_C):
            return
        tree = self._softmaxes.tree
        bound_C = self._scores.bounds(depth, tree.trie_nodes(depth, at_C), logp_C)
        nodes = Pending(at_C, logp_C, bound_C, tree.num_leaves(depth, at_C))
        if (older := self._pending.get(depth)) is not None:
            nodes = older.join(nodes)
        self._pending[depth] = nodes

    def _results(self, depth: int, at_C: Ints, logp_C: Logprobs) -> Found:
        """Turn nodes at the goal into results: themselves, or the allowed rows of leaves."""
        if self._allowed is None:
            node_C = self._softmaxes.tree.trie_nodes(depth, at_C)
            return Found(at_C, logp_C, self._scores.bounds(depth, node_C, logp_C))
        owner_R, row_R = self._allowed.expand(at_C)
        logp_R = logp_C[owner_R]
        return Found(row_R, logp_R, self._scores.rows(row_R, logp_R))
