"""Contenders of `bench finish`: our finish in each runtime, and `generate`.

`prepare` sets a contender up for a request and is not timed; `answer` is timed.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.finish.flop_count import query_flop, row_flop
from bench.finish.generate import Generator
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.online.finish import Finisher, KeptHistory, Searcher
from models.online.memory.neighbours import Neighbours

K = 10
BEAMS = 10


class Contender(Protocol):
    name: str
    kept_history: bool
    pruned: bool
    exact: bool

    @property
    def nodes(self) -> int:
        """Return the SID nodes opened for the last answer; 0 if they are not counted."""

    @property
    def flop(self) -> float:
        """Return the floating-point operations of the last answer; 0 if they are not counted."""

    def prepare(self, rows: Sequence[int], candidates: Candidates) -> None: ...

    def answer(self) -> list[int]:
        """Return the catalog rows of the K best items, best first."""


class Ours:
    """The exact finish on one searcher."""

    exact = True

    def __init__(
        self,
        searcher: Searcher,
        catalog: Catalog,
        *,
        prunes: bool,
        new_items: int | None,
        neighbours: Neighbours | None = None,
    ) -> None:
        """Prepare the finish.

        Args:
            new_items: number of newest items that the answer has to encode; the encoding of the
                others is kept from an earlier request. None keeps nothing.
            neighbours: the memory, if there is one.
        """
        self._config = searcher.config
        self._finisher = Finisher(searcher, catalog, neighbours)
        self._new_items = new_items
        self.name = searcher.precision + ("+event" if new_items else "")
        self.pruned, self.kept_history = prunes, new_items is not None
        self._rows: Sequence[int] = ()
        self._candidates: Candidates | None = None
        self._state: KeptHistory | None = None
        self._num_rows = 0

    @property
    def nodes(self) -> int:
        return self._finisher.num_opened

    @property
    def flop(self) -> float:
        """Count the scored children and the encoding of new rows."""
        config, num_rows = self._config, self._num_rows
        total = 2.0 * config.width * self._finisher.num_scored
        if self._new_items == 0:
            return total
        num_new = self._new_items or num_rows
        return total + num_new * row_flop(config, num_rows) + query_flop(config)

    def prepare(self, rows: Sequence[int], candidates: Candidates) -> None:
        self._rows, self._candidates, self._state = rows, candidates, None
        self._num_rows = len(rows) + 1
        self._finisher.prepare(candidates)
        if self._new_items is not None:
            num_old = len(rows) - self._new_items
            self._state, self._rows = self._finisher.encode(rows[:num_old]), rows[num_old:]
        self._finisher.num_opened_L[:] = self._finisher.num_scored = 0

    def answer(self) -> list[int]:
        assert self._candidates is not None
        state = self._state
        if state is None or len(self._rows):
            state = self._finisher.extend(state, self._rows)
        return [found.row for found in self._finisher.finish(state, self._candidates, k=K)]


class Generate:
    """`transformers.generate` on the baseline: with ten beams, or with enough beams to be exact."""

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
