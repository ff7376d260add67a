"""The finish as one native call a request: the compiled `kernel/`, float32, one thread.

It keeps the contract of the numpy search over any other runtime. It exists where `python -m
models.online.build_kernel` found a C compiler, and is used where the processor can run the
compiled code. Knows nothing of catalogs, users or requests.
"""

# M = new items, L = levels, W = model width, P = outputs in panels of 32, N = heads

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary, finalize

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import AllowedRows, Candidates
from models.errors import InvalidRelease
from models.online.best_first import Found, Searched
from models.online.build_kernel import built_library
from models.online.nodes import Floats, NodeTables
from models.online.shape import RecommenderConfig

NATIVE: Final = "native-float32"
_MAX_LEVELS = _MAX_LAYERS = 8  # as in the kernel
_PANEL, _LANES = 32, 16
_NUM_ROOMS = 10

# Addresses, not pointer objects: otherwise a tree is dozens of objects for the garbage collector.
_Float = _Int = _Code = _Byte = c_void_p


class _Linear(Structure):
    _fields_ = (("packed", _Float), ("bias", _Float), ("inputs", c_int32), ("outputs", c_int32))


class _Norm(Structure):
    _fields_ = (("scale", _Float), ("shift", _Float))


class _Layer(Structure):
    _fields_ = (
        ("norm", _Norm),
        ("qkv", _Linear),
        ("out", _Linear),
        ("mlp_norm", _Norm),
        ("up", _Linear),
        ("down", _Linear),
        ("bias", _Float),
    )


class _Model(Structure):
    _fields_ = (
        ("width", c_int32),
        ("heads", c_int32),
        ("levels", c_int32),
        ("max_rows", c_int32),
        ("bias_stride", c_int32),
        ("num_layers", c_int32),
        ("sizes", c_int32 * _MAX_LEVELS),
        ("start", _Float),
        ("norm", _Norm),
        ("queries", _Linear * _MAX_LEVELS),
        ("codes", _Linear * _MAX_LEVELS),
        ("own", _Float * _MAX_LEVELS),
        ("layers", _Layer * _MAX_LAYERS),
    )


class _Stage(Structure):
    _fields_ = (("node", _Int), ("first", _Int))


class _Tree(Structure):
    _fields_ = (
        ("num_stages", c_int32),
        ("stages", _Stage * _MAX_LEVELS),
        ("trie_first", _Int * _MAX_LEVELS),
        ("trie_code", _Code * _MAX_LEVELS),
        ("own_row", _Code * _MAX_LEVELS),
        ("unknown", c_int32 * _MAX_LEVELS),
    )


class _Rows(Structure):
    _fields_ = (("first_row", _Int), ("banned", _Byte), ("allowed", _Byte))


class _Workspace(Structure):
    _fields_ = (("room", c_void_p * _NUM_ROOMS), ("bytes", ctypes.c_size_t * _NUM_ROOMS))


@dataclass(frozen=True, eq=False)
class NativeState:
    """An encoded history in the kernel's layout."""

    buffer: Floats
    rows: int  # its start and its items

    @property
    def num_items(self) -> int:
        return self.rows - 1

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
        if max(config.levels, config.layers) > _MAX_LEVELS:
            raise InvalidRelease(f"{NATIVE}: more than {_MAX_LEVELS} levels or layers")
        self.config = config
        self._levels = config.levels
        self._prunes = prunes
        self._library = _load(file)
        self._packed = _Packed(config, weights)
        self._nodes = NodeTables(config, weights)
        self._workspace = _Workspace()
        self._trees: WeakKeyDictionary[Candidates, _KeptTree] = WeakKeyDictionary()
        self._floats: dict[int, int] = {}
        finalize(self, self._library.release_workspace, byref(self._workspace))

    def extend(self, past: NativeState | None, sids_ML: NDArray[np.integer]) -> NativeState:
        items_MW = self._nodes.items(sids_ML)
        past_rows = past.rows if past else 0
        rows = past_rows + len(items_MW) + (past is None)
        buffer = np.empty(self._num_floats(rows), dtype=np.float32)
        failed = self._library.extend_history(
            byref(self._packed.model),
            past.buffer.ctypes.data if past else None,
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
    ) -> Searched:
        """Search as `models.online.finish.Searcher.search` specifies."""
        entries, logprobs = np.empty(k, dtype=np.int64), np.empty(k)
        num_opened_L, num_scored = np.zeros(self._levels, dtype=np.int64), c_int64()
        num = self._library.search_tree(
            byref(self._packed.model),
            state.buffer.ctypes.data,
            state.rows,
            byref(self._tree(tree)),
            byref(_rows(allowed)),
            goal,
            k,
            self._prunes,
            entries.ctypes.data,
            logprobs.ctypes.data,
            num_opened_L.ctypes.data,
            byref(num_scored),
            byref(self._workspace),
        )
        if num < 0:
            raise MemoryError(f"the search for {k} at depth {goal}")
        found = Found(entries[:num], logprobs[:num])
        return Searched(found, num_opened_L, num_scored.value)

    def _tree(self, tree: Candidates) -> _Tree:
        if (kept := self._trees.get(tree)) is None:
            kept = self._trees[tree] = _KeptTree(tree, self._nodes)
        return kept.tree

    def _num_floats(self, rows: int) -> int:
        if rows not in self._floats:
            self._floats[rows] = self._library.history_floats(byref(self._packed.model), rows)
        return self._floats[rows]


class _Packed:
    """The weights in the kernel's layout, and the arrays that its pointers need alive."""

    def __init__(self, config: RecommenderConfig, weights: Mapping[str, Floats]) -> None:
        self._config = config
        self._weights = weights
        self._kept: list[NDArray[Any]] = []
        bias_columns = 2 * config.max_rows + 2 * _LANES
        self.model = _Model(
            width=config.width,
            heads=config.heads,
            levels=config.levels,
            max_rows=config.max_rows,
            bias_stride=bias_columns,
            num_layers=config.layers,
            sizes=(c_int32 * _MAX_LEVELS)(*config.sizes),
            start=self._floats(weights["start"]),
            norm=self._norm("norm"),
        )
        for level, size in enumerate(config.sizes):
            self.model.queries[level] = self._linear(f"queries.{level}")
            codes, no_bias = weights[f"code_embeddings.{level}.weight"], np.zeros(size)
            self.model.codes[level] = self._pack(codes, no_bias)
            if level:
                own = weights[f"node_embeddings.{level - 1}.own.weight"]
                self.model.own[level] = self._floats(own)
        for at in range(config.layers):
            self.model.layers[at] = self._layer(f"layers.{at}", bias_columns)

    def _layer(self, name: str, bias_columns: int) -> _Layer:
        return _Layer(
            norm=self._norm(f"{name}.norm"),
            qkv=self._linear(f"{name}.qkv"),
            out=self._linear(f"{name}.out"),
            mlp_norm=self._norm(f"{name}.mlp.norm"),
            up=self._linear(f"{name}.mlp.up"),
            down=self._linear(f"{name}.mlp.down"),
            bias=self._bias(f"{name}.bias.weight", bias_columns),
        )

    def _bias(self, name: str, num_columns: int) -> int:
        """Lay out (N, columns): column c is a key `max_rows - 1 - c` rows back; -inf if ahead."""
        config = self._config
        back = config.max_rows - 1 - np.arange(num_columns)
        bias = self._weights[name][np.clip(back, 0, config.max_distance)].T.copy()
        bias[:, back < 0] = -np.inf
        return self._floats(bias)

    def _norm(self, name: str) -> _Norm:
        return _Norm(
            self._floats(self._weights[f"{name}.weight"]),
            self._floats(self._weights[f"{name}.bias"]),
        )

    def _linear(self, name: str) -> _Linear:
        return self._pack(self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _pack(self, weight: Floats, bias: Floats) -> _Linear:
        """Pack a weight into panels: (P / 32, inputs, 32)."""
        outputs, inputs = weight.shape
        padded = np.zeros((-(-outputs // _PANEL) * _PANEL, inputs), dtype=np.float32)
        padded[:outputs] = weight
        packed = padded.reshape(-1, _PANEL, inputs).transpose(0, 2, 1)
        return _Linear(self._floats(packed), self._floats(bias), inputs, outputs)

    def _floats(self, array: Floats) -> int:
        return _keep(self._kept, array, np.float32)


class _KeptTree:
    """A tree in the kernel's layout, and the arrays that its pointers need alive.

    It holds no reference to the `Candidates`; otherwise the weak dictionary would never drop them.
    """

    def __init__(self, source: Candidates, nodes: NodeTables) -> None:
        self._kept: list[NDArray[Any]] = []
        trie, stages = source.trie, source.stages
        self.tree = _Tree(num_stages=len(stages))
        for depth in range(trie.space.levels):
            self.tree.trie_first[depth] = self._keep(trie.first_child[depth], np.int64)
            self.tree.trie_code[depth] = self._keep(trie.codes[depth], np.int32)
            self.tree.own_row[depth] = self._keep(nodes.own_rows(trie)[depth], np.int32)
            own = nodes.own[depth]
            self.tree.unknown[depth] = 0 if own is None else len(own) - 1
        for at, stage in enumerate(stages):
            self.tree.stages[at] = _Stage(
                self._keep(stage.node_M, np.int64), self._keep(stage.first, np.int64)
            )

    def _keep(self, array: NDArray[Any], dtype: Any) -> int:
        return _keep(self._kept, array, dtype)


def _keep(kept: list[NDArray[Any]], array: NDArray[Any], dtype: Any) -> int:
    """Return the address of an array in the kernel's dtype; `kept` keeps the array alive."""
    kept.append(np.ascontiguousarray(array, dtype=dtype))
    return kept[-1].ctypes.data


def _rows(allowed: AllowedRows | None) -> _Rows:
    if allowed is None:
        return _Rows()
    first, mask = allowed.first_row, allowed.allowed_N
    return _Rows(
        None if first is None else first.ctypes.data,
        allowed.banned_N.ctypes.data,
        None if mask is None else mask.ctypes.data,
    )


def _load(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    model, place, workspace = POINTER(_Model), c_void_p, POINTER(_Workspace)
    library.history_floats.argtypes = (model, c_int32)
    library.history_floats.restype = c_int64
    library.extend_history.argtypes = (
        model, place, c_int32, place, c_int32, place, workspace,
    )  # fmt: skip
    library.extend_history.restype = ctypes.c_int
    library.search_tree.argtypes = (
        model, place, c_int32, POINTER(_Tree), POINTER(_Rows), c_int32, c_int32, c_int32,
        place, place, place, POINTER(c_int64), workspace,
    )  # fmt: skip
    library.search_tree.restype = c_int64
    library.release_workspace.argtypes = (workspace,)
    return library
