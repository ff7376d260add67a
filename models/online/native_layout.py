"""The structures of the compiled `kernel/` for ctypes, and the weights in its layout.

Knows nothing of histories or searches.
"""

# W = model width, P = outputs in panels of 32, N = heads

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.online.nodes import Floats
from models.online.shape import RecommenderConfig

MAX_LEVELS = MAX_LAYERS = 8  # as in the kernel
_PANEL, _LANES = 32, 16
_NUM_ROOMS = 12

# Addresses, not pointer objects: otherwise a tree is dozens of objects for the garbage collector.
_Float = _Double = _Int = _Code = _Byte = c_void_p


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
        ("sizes", c_int32 * MAX_LEVELS),
        ("start", _Float),
        ("norm", _Norm),
        ("queries", _Linear * MAX_LEVELS),
        ("codes", _Linear * MAX_LEVELS),
        ("own", _Float * MAX_LEVELS),
        ("layers", _Layer * MAX_LAYERS),
    )


class StageStruct(Structure):
    _fields_ = (("node", _Int), ("first", _Int))


class TreeStruct(Structure):
    _fields_ = (
        ("num_stages", c_int32),
        ("stages", StageStruct * MAX_LEVELS),
        ("trie_first", _Int * MAX_LEVELS),
        ("trie_code", _Code * MAX_LEVELS),
        ("own_row", _Code * MAX_LEVELS),
        ("unknown", c_int32 * MAX_LEVELS),
    )


class RowsStruct(Structure):
    _fields_ = (("first_row", _Int), ("banned", _Byte), ("allowed", _Byte))


class MemoryStruct(Structure):
    _fields_ = (
        ("levels", c_int32),
        ("decay", c_double),
        ("scale", c_double),
        ("floor", c_double),
        ("first", _Int),
        ("neighbour", _Code),
        ("weight", _Float),
        ("above", _Code),
        ("parent", _Code * MAX_LEVELS),
        ("row_evidence", _Double),
        ("node_evidence", _Double * MAX_LEVELS),
    )


class RecalledStruct(Structure):
    _fields_ = (
        ("memory", POINTER(MemoryStruct)),
        ("recent", _Int),
        ("night_row", _Int),
        ("night_factor", _Double),
        ("num", c_int32),
        ("num_night", c_int32),
    )


class ResultsStruct(Structure):
    _fields_ = (
        ("entries", _Int),
        ("because", _Int),
        ("num_opened", _Int),
        ("logprobs", _Double),
        ("scores", _Double),
        ("num_scored", c_int64),
    )


class WorkspaceStruct(Structure):
    _fields_ = (("room", c_void_p * _NUM_ROOMS), ("bytes", ctypes.c_size_t * _NUM_ROOMS))


class PackedModel:
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
            sizes=(c_int32 * MAX_LEVELS)(*config.sizes),
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
        return keep_array(self._kept, array, np.float32)


def keep_array(kept: list[NDArray[Any]], array: NDArray[Any], dtype: Any) -> int:
    """Return the address of an array in the kernel's dtype; `kept` keeps the array alive."""
    kept.append(np.ascontiguousarray(array, dtype=dtype))
    return kept[-1].ctypes.data


def load_kernel(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    model, place, workspace = POINTER(_Model), c_void_p, POINTER(WorkspaceStruct)
    library.history_floats.argtypes = (model, c_int32)
    library.history_floats.restype = c_int64
    library.extend_history.argtypes = (
        model, place, c_int32, place, c_int32, place, workspace,
    )  # fmt: skip
    library.extend_history.restype = ctypes.c_int
    library.search_tree.argtypes = (
        model, place, c_int32, POINTER(TreeStruct), POINTER(RowsStruct), POINTER(RecalledStruct),
        c_int32, c_int32, c_int32, POINTER(ResultsStruct), workspace,
    )  # fmt: skip
    library.search_tree.restype = c_int64
    library.release_workspace.argtypes = (workspace,)
    return library
