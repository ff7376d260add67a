"""The finish as one native call a request: the compiled `kernel/`, float32, one thread.

It keeps the contract of the numpy search over any other runtime. It exists where `python -m
models.online.build_kernel` found a C compiler, and is used where the processor can run the
compiled code. Knows nothing of catalogs, users or requests.
"""

# M = new items, L = levels, W = model width

from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from weakref import WeakKeyDictionary, finalize

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates
from models.errors import InvalidRelease
from models.online.build_kernel import built_library
from models.online.found import Searched
from models.online.memory.tree_memory import Recalled, TreeMemory
from models.online.native_layout import (
    MAX_LEVELS,
    KeptMemory,
    KeptTree,
    PackedModel,
    ResultRoom,
    TreeStruct,
    WorkspaceStruct,
    load_kernel,
    point_to_rows,
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
        self._room = ResultRoom(config.levels, _FIRST_ROOM)
        self._trees: WeakKeyDictionary[Candidates, KeptTree] = WeakKeyDictionary()
        self._memories: WeakKeyDictionary[TreeMemory, KeptMemory] = WeakKeyDictionary()
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
            self._room = ResultRoom(self._levels, k)
        room = self._room
        num = self._library.search_tree(
            byref(self._packed.model),
            state.address,
            state.rows,
            byref(self._tree(tree)),
            byref(point_to_rows(allowed)),
            None if recalled is None else byref(self._memory(recalled).recall(recalled.recent)),
            goal,
            k,
            self._prunes,
            byref(room.struct),
            byref(self._workspace),
        )
        if num < 0:
            raise MemoryError(f"the search for {k} at depth {goal}")
        return room.searched(num, has_reasons=recalled is not None and goal == self._levels)

    def _memory(self, recalled: Recalled) -> KeptMemory:
        if (kept := self._memories.get(recalled.memory)) is None:
            kept = self._memories[recalled.memory] = KeptMemory(recalled.memory)
        return kept

    def _tree(self, tree: Candidates) -> TreeStruct:
        if (kept := self._trees.get(tree)) is None:
            kept = self._trees[tree] = KeptTree(tree, self._nodes)
        return kept.tree

    def _num_floats(self, rows: int) -> int:
        if rows not in self._floats:
            self._floats[rows] = self._library.history_floats(byref(self._packed.model), rows)
        return self._floats[rows]
