"""The finish as one native call a request: the compiled `kernel/`, float32, one thread.

It keeps the contract of the numpy search over any other runtime. It exists where `python -m
models.online.build_kernel` found a C compiler, and is used where the processor can run the
compiled code. Knows nothing of catalogs, users or requests.
"""

# M = new items, L = levels, K = results, R = reasons, W = model width

from collections.abc import Mapping
from ctypes import byref, pointer
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary, finalize

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates
from models.errors import InvalidRelease
from models.online.build_kernel import built_library
from models.online.found import Found, Searched
from models.online.memory.neighbours import NUM_REASONS
from models.online.memory.tree_memory import Recalled, TreeMemory
from models.online.native_layout import (
    MAX_LEVELS,
    MemoryStruct,
    PackedModel,
    RecalledStruct,
    ResultsStruct,
    RowsStruct,
    StageStruct,
    TreeStruct,
    WorkspaceStruct,
    keep_array,
    load_kernel,
)
from models.online.nodes import Floats, NodeTables
from models.online.shape import RecommenderConfig

NATIVE: Final = "native-float32"
_FIRST_ROOM = 100  # results


@dataclass(frozen=True, eq=False)
class NativeState:
    """An encoded history in the kernel's layout."""

    buffer: Floats
    rows: int  # its start and its items

    @property
    def num_items(self) -> int:
        return self.rows - 1

    @cached_property
    def address(self) -> int:
        return self.buffer.ctypes.data

    @property
    def num_bytes(self) -> int:
        return self.buffer.nbytes


class _KeptTree:
    """A tree in the kernel's layout, and the arrays that its pointers need alive.

    It holds no reference to the `Candidates`; otherwise the weak dictionary would never drop them.
    """

    def __init__(self, source: Candidates, nodes: NodeTables) -> None:
        self._kept: list[NDArray[Any]] = []
        trie, stages = source.trie, source.stages
        self.tree = TreeStruct(num_stages=len(stages))
        for depth in range(trie.space.levels):
            self.tree.trie_first[depth] = self._keep(trie.first_child[depth], np.int64)
            self.tree.trie_code[depth] = self._keep(trie.codes[depth], np.int32)
            self.tree.own_row[depth] = self._keep(nodes.own_rows(trie)[depth], np.int32)
            own = nodes.own[depth]
            self.tree.unknown[depth] = 0 if own is None else len(own) - 1
        for at, stage in enumerate(stages):
            self.tree.stages[at] = StageStruct(
                self._keep(stage.node_M, np.int64), self._keep(stage.first, np.int64)
            )

    def _keep(self, array: NDArray[Any], dtype: Any) -> int:
        return keep_array(self._kept, array, dtype)


class _KeptMemory:
    """A memory in the kernel's layout, over the same room as the numpy search.

    It holds no reference to the `TreeMemory`.
    """

    def __init__(self, source: TreeMemory) -> None:
        self._kept: list[NDArray[Any]] = []
        neighbours, settings = source.neighbours, source.settings
        memory = MemoryStruct(
            levels=len(source.node_evidence_M),
            decay=settings.decay,
            scale=settings.scale,
            floor=settings.floor,
            first=self._keep(neighbours.first),
            neighbour=self._keep(neighbours.neighbour_P),
            weight=self._keep(neighbours.weight_P),
            above=self._keep(source.above_N),
            row_evidence=self._keep(source.row_evidence_N),
        )
        for depth, parent_M in enumerate(source.parent_M):
            memory.parent[depth] = self._keep(parent_M)
        for depth, evidence_M in enumerate(source.node_evidence_M):
            memory.node_evidence[depth] = self._keep(evidence_M)
        self._scale = settings.scale
        self._recent = np.empty(settings.recent, dtype=np.int64)
        self._recalled = RecalledStruct(pointer(memory), self._recent.ctypes.data)

    def recall(self, source: Recalled) -> RecalledStruct:
        """Return the structure of one history's newest rows and night, until the next call."""
        self._recent[: len(source.recent)] = source.recent
        self._recalled.num = len(source.recent)
        self._recalled.num_night = 0
        if (night := source.night) is not None:
            self._night = night.row_R, np.exp(night.bonus_R / self._scale)
            self._recalled.num_night = len(night.row_R)
            self._recalled.night_row, self._recalled.night_factor = (
                array.ctypes.data for array in self._night
            )
        return self._recalled

    def _keep(self, array: NDArray[Any]) -> int:
        """Return the address of an array, which must have the kernel's layout: it is shared."""
        assert array.flags.c_contiguous
        self._kept.append(array)
        return array.ctypes.data


class _ResultRoom:
    """Room for the results of a search, kept between searches: addresses take time to ask for."""

    def __init__(self, levels: int, k: int) -> None:
        self.k = k
        self.entry_K = np.empty(k, dtype=np.int64)
        self.logprob_K, self.score_K = np.empty(k), np.empty(k)
        self.because_KR = np.empty((k, NUM_REASONS), dtype=np.int64)
        self.num_opened_L = np.empty(levels, dtype=np.int64)
        self.struct = ResultsStruct(
            self.entry_K.ctypes.data,
            self.because_KR.ctypes.data,
            self.num_opened_L.ctypes.data,
            self.logprob_K.ctypes.data,
            self.score_K.ctypes.data,
        )

    def searched(self, num: int, *, has_reasons: bool) -> Searched:
        """Copy the first `num` results."""
        found = Found(
            self.entry_K[:num].copy(), self.logprob_K[:num].copy(), self.score_K[:num].copy()
        )
        reasons = (
            ()
            if not has_reasons
            else [
                tuple([row for row in rows if row >= 0]) for rows in self.because_KR[:num].tolist()
            ]
        )
        return Searched(found, self.num_opened_L.copy(), self.struct.num_scored, reasons)


def _point_to_rows(allowed: AllowedRows | None) -> RowsStruct:
    if allowed is None:
        return RowsStruct()
    first, mask = allowed.first_row, allowed.allowed_N
    return RowsStruct(
        None if first is None else first.ctypes.data,
        allowed.banned_N.ctypes.data,
        None if mask is None else mask.ctypes.data,
    )


class NativeRuntime:
    """Runs an online recommender of any shape that the kernel has room for. Not thread-safe."""

    precision = NATIVE

    def __init__(
        self, config: RecommenderConfig, weights: Mapping[str, Floats], *, prunes: bool = True
    ) -> None:
        """Pack the weights of `online.safetensors` for the kernel.

        Args:
            weights: the tensors of `online.safetensors`, by name.
            prunes: False opens every node, for comparison.

        Raises:
            InvalidRelease: no kernel was built, or the model has too many levels or layers.
        """
        file = built_library()
        if file is None:
            raise InvalidRelease(
                f"{NATIVE}: no kernel for this processor, expected one from "
                "`python -m models.online.build_kernel`"
            )
        if max(config.levels, config.layers) > MAX_LEVELS:
            raise InvalidRelease(f"{NATIVE}: more than {MAX_LEVELS} levels or layers")
        self.config = config
        self._levels = config.levels
        self._prunes = prunes
        self._library = load_kernel(file)
        self._packed = PackedModel(config, weights)
        self._nodes = NodeTables(config, weights)
        self._workspace = WorkspaceStruct()
        self._room = _ResultRoom(config.levels, _FIRST_ROOM)
        self._trees: WeakKeyDictionary[Candidates, _KeptTree] = WeakKeyDictionary()
        self._memories: WeakKeyDictionary[TreeMemory, _KeptMemory] = WeakKeyDictionary()
        self._floats: dict[int, int] = {}
        finalize(self, self._library.release_workspace, byref(self._workspace))

    def extend(self, past: NativeState | None, sids_ML: NDArray[np.integer]) -> NativeState:
        items_MW = self._nodes.items(sids_ML)
        past_rows = past.rows if past else 0
        rows = past_rows + len(items_MW) + (past is None)
        buffer = np.empty(self._num_floats(rows), dtype=np.float32)
        failed = self._library.extend_history(
            byref(self._packed.model),
            past.address if past else None,
            past_rows,
            items_MW.ctypes.data,
            len(items_MW),
            buffer.ctypes.data,
            byref(self._workspace),
        )
        if failed:
            raise MemoryError(f"a history of {rows} rows")
        return NativeState(buffer, rows)

    def prepare(self, tree: Candidates) -> None:
        self._tree(tree)

    def search(
        self,
        state: NativeState,
        tree: Candidates,
        *,
        goal: int,
        k: int,
        allowed: AllowedRows | None,
        recalled: Recalled | None = None,
    ) -> Searched:
        """Search as `models.online.finish.Searcher.search` specifies."""
        if k > self._room.k:
            self._room = _ResultRoom(self._levels, k)
        room = self._room
        num = self._library.search_tree(
            byref(self._packed.model),
            state.address,
            state.rows,
            byref(self._tree(tree)),
            byref(_point_to_rows(allowed)),
            None if recalled is None else byref(self._memory(recalled).recall(recalled)),
            goal,
            k,
            self._prunes,
            byref(room.struct),
            byref(self._workspace),
        )
        if num < 0:
            raise MemoryError(f"the search for {k} at depth {goal}")
        return room.searched(num, has_reasons=recalled is not None and goal == self._levels)

    def _memory(self, recalled: Recalled) -> _KeptMemory:
        if (kept := self._memories.get(recalled.memory)) is None:
            kept = self._memories[recalled.memory] = _KeptMemory(recalled.memory)
        return kept

    def _tree(self, tree: Candidates) -> TreeStruct:
        if (kept := self._trees.get(tree)) is None:
            kept = self._trees[tree] = _KeptTree(tree, self._nodes)
        return kept.tree

    def _num_floats(self, rows: int) -> int:
        if rows not in self._floats:
            self._floats[rows] = self._library.history_floats(byref(self._packed.model), rows)
        return self._floats[rows]
