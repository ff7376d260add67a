"""Who answers the same request in `bench finish`: ours in each runtime, and `generate`.

A contender is made ready for a request, which is not timed, and then answers it, which is.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.cost import node_flop, row_flop
from bench.generate import Generator
from models.candidates import Candidates
from models.catalog import Catalog
from models.finish import WHOLE_NODES, Finisher
from models.runtime import Decoded, HistoryState, Near, Runtime
from models.shape import RecommenderConfig
from models.sid import Prefix

K = 10
BEAMS = 10


class Contender(Protocol):
    name: str
    kept_history: bool
    pruned: bool
    exact: bool

    @property
    def nodes(self) -> int:
        """Decoder nodes of the last answer; 0 where they are not counted."""

    @property
    def flop(self) -> float:
        """Floating-point operations of the last answer; 0 where they are not counted."""

    def prepare(self, rows: Sequence[int], candidates: Candidates) -> None: ...

    def answer(self) -> list[int]:
        """Catalog rows of the K best, best first."""


class Ours:
    """The best-first finish.

    new_items: how many of the newest items have to be encoded within the answer, the rest being
    kept from the request before; None keeps nothing.
    """

    exact = True

    def __init__(
        self, runtime: Runtime, catalog: Catalog, *, prune: bool, new_items: int | None
    ) -> None:
        self._counting = _CountingRuntime(runtime)
        self._finisher = Finisher(
            self._counting, catalog, whole_nodes=WHOLE_NODES if prune else math.inf
        )
        self._new_items = new_items
        self.name = runtime.precision + ("+event" if new_items else "")
        self.pruned, self.kept_history = prune, new_items is not None
        self._rows: Sequence[int] = ()
        self._candidates: Candidates | None = None
        self._state: HistoryState | None = None

    @property
    def nodes(self) -> int:
        return self._counting.nodes

    @property
    def flop(self) -> float:
        return self._counting.flop

    def prepare(self, rows: Sequence[int], candidates: Candidates) -> None:
        self._rows, self._candidates, self._state = rows, candidates, None
        if not self.pruned:
            candidates.flat()
        if self._new_items is not None:
            num_old = len(rows) - self._new_items
            self._state, self._rows = self._finisher.encode(rows[:num_old]), rows[num_old:]
        self._counting.nodes, self._counting.flop = 0, 0.0

    def answer(self) -> list[int]:
        assert self._candidates is not None
        state = self._state
        if state is None or len(self._rows):
            state = self._finisher.extend(state, self._rows)
        return [found.row for found in self._finisher.finish(state, self._candidates, k=K)]


class Generate:
    """`transformers.generate` on the baseline: ten beams, or as many as make it exact."""

    kept_history = pruned = False
    nodes = 0
    flop = 0.0

    def __init__(
        self, generator: Generator, catalog: Catalog, *, exact: bool, reads_prompt_once: bool
    ) -> None:
        self.name = "generate" + ("_exact" if exact else "")
        self.name += "+prompt_once" if reads_prompt_once else ""
        self.exact = exact
        self._generator, self._catalog = generator, catalog
        self._reads_prompt_once = reads_prompt_once
        self._sids: NDArray[np.int32] = catalog.sids[:0]
        self._prefixes: list[Prefix] = []
        self._num_beams = BEAMS

    def prepare(self, rows: Sequence[int], candidates: Candidates) -> None:
        table = self._catalog.trie.prefixes()[candidates.prefix_nodes]
        self._sids = self._catalog.sids[list(rows)]
        self._prefixes = [tuple(codes) for codes in table.tolist()]
        if self.exact:
            self._num_beams = self._generator.exact_beams(self._prefixes, k=K)

    def answer(self) -> list[int]:
        found = self._generator.recommend(
            self._sids,
            self._prefixes,
            k=K,
            num_beams=self._num_beams,
            reads_prompt_once=self._reads_prompt_once,
        )
        sids = np.array([item.sid for item in found], dtype=np.int64)
        rows: list[int] = self._catalog.first_row[self._catalog.trie.nodes(sids)].tolist()
        return rows


class _CountingRuntime:
    """Counts nodes and the work that they stand for."""

    def __init__(self, runtime: Runtime) -> None:
        self.config: RecommenderConfig = runtime.config
        self.precision = runtime.precision
        self.nodes, self.flop = 0, 0.0
        self._runtime = runtime

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        state = self._runtime.extend(past, sids_ML)
        num_rows = state.num_items + 1
        num_new = num_rows if past is None else len(sids_ML)
        self.flop += num_new * row_flop(self.config, num_rows)
        self.flop += node_flop(self.config, num_rows, 0)
        return state

    def decode(
        self, state: HistoryState, codes_MD: NDArray[np.int64], near: Sequence[Near]
    ) -> Decoded:
        num, depth = codes_MD.shape
        self.nodes += num
        self.flop += num * node_flop(self.config, state.num_items + 1, depth)
        return self._runtime.decode(state, codes_MD, near)
