"""The contract of a runtime of the online recommender, and ONNX Runtime in float32.

A runtime extends a history item by item. The codes after a SID prefix are then a softmax over
a few products (`models.online.best_first`). numpy in, numpy out: a caller needs no torch. Knows
nothing of catalogs, users or requests.
"""

# M = new rows, H = history rows (start + items), N = heads, E = head width, W = model width,
# L = levels, V = codes of a level

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import InvalidRelease, one_line
from models.online.nodes import Floats, NodeTables
from models.online.shape import RecommenderConfig

ONNX = "onnx-float32"  # the precision, as releases and settings name it
_GRAPH = "extend.onnx"


@dataclass(frozen=True, eq=False)
class HistoryState:
    """An encoded history, ready to be extended and searched. Immutable."""

    keys: tuple[Floats, ...]  # by layer: (N, E, H)
    values: tuple[Floats, ...]  # by layer: (N, H, E)
    queries_LW: Floats  # by level: the query for the next code
    logits: tuple[Floats, ...]  # by level: (V,), products of query and code embeddings

    @property
    def num_items(self) -> int:
        return int(self.keys[0].shape[-1]) - 1

    @cached_property
    def num_bytes(self) -> int:
        arrays = [*chain(self.keys, self.values, self.logits), self.queries_LW]
        return sum(array.nbytes for array in arrays)


class Runtime(Protocol):
    """Runs the online recommender. Not thread-safe."""

    config: RecommenderConfig
    precision: str  # a key of the manifest's precisions
    nodes: NodeTables

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        """Append M items, oldest first, to a history. `past=None` begins a history."""


class BiasTables:
    """Attention biases for the longest history; shorter histories take a slice.

    Distances beyond the window were never trained, so they are clipped to the window.
    """

    def __init__(self, config: RecommenderConfig, weights: Mapping[str, Floats]) -> None:
        rows = np.arange(config.max_rows)
        distance = rows[:, None] - rows[None, :]
        clipped = np.clip(distance, 0, config.max_distance)
        self._mask = []
        for at in range(config.layers):
            mask = weights[f"layers.{at}.bias.weight"][clipped].transpose(2, 0, 1)
            mask[:, distance < 0] = -np.inf
            self._mask.append(mask)

    def mask(self, num_past: int, num_new: int) -> tuple[Floats, ...]:
        """Return the bias of each layer: (N, num_new, num_past + num_new)."""
        end = num_past + num_new
        return tuple(np.ascontiguousarray(mask[:, num_past:end, :end]) for mask in self._mask)


class OnnxRuntime:
    """Runs the graph of a release on ONNX Runtime, on one CPU thread."""

    precision = ONNX

    def __init__(
        self, directory: Path, config: RecommenderConfig, weights: Mapping[str, Floats]
    ) -> None:
        """Load the graph in `directory`; `weights` are the tensors of `online.safetensors`.

        Raises InvalidRelease for a graph that does not load, or that encodes no item.
        """
        self.config = config
        self.nodes = NodeTables(config, weights)
        self._bias = BiasTables(config, weights)
        self._start_1W = weights["start"][None, :]
        self._extend = _Session(directory / _GRAPH)
        self._empty = self._no_history()
        self._check_graph(directory / _GRAPH)

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        items_MW = self.nodes.items(sids_ML)
        if past is None:
            past, items_MW = self._empty, np.concatenate([self._start_1W, items_MW])
        num_past, num_new = past.num_items + 1, len(items_MW)
        mask = self._bias.mask(num_past, num_new)
        past_rows = {"mask": mask, "past_keys": past.keys, "past_values": past.values}
        made = self._extend.run({"items": items_MW} | _by_layer(past_rows))
        return HistoryState(
            keys=_in_order(made, "keys", self.config.layers),
            values=_in_order(made, "values", self.config.layers),
            queries_LW=np.concatenate(_in_order(made, "query", self.config.levels)),
            logits=tuple(logits[0] for logits in _in_order(made, "logits", self.config.levels)),
        )

    def _check_graph(self, file: Path) -> None:
        """Encode one item and compare the shapes. Raises InvalidRelease."""
        config, heads = self.config, self.config.heads
        try:
            made = self.extend(None, np.zeros((1, config.levels), dtype=np.int64))
        except Exception as exc:  # the library has no common root for its errors
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
        width = config.width // heads
        expected: list[tuple[int, ...]] = [(heads, width, 2)] * config.layers
        expected += [(heads, 2, width)] * config.layers
        expected += [(config.levels, config.width), *((size,) for size in config.sizes)]
        found = [each.shape for each in (*made.keys, *made.values, made.queries_LW, *made.logits)]
        if found != expected:
            raise InvalidRelease(f"{file}: results of shapes {found}, expected {expected}")

    def _no_history(self) -> HistoryState:
        """Return the state without any row, not even the start."""
        config = self.config
        keys = np.zeros((config.heads, config.width // config.heads, 0), dtype=np.float32)
        layers = config.layers
        return HistoryState((keys,) * layers, (keys.swapaxes(1, 2),) * layers, keys, ())


def _by_layer(arrays: Mapping[str, Sequence[Floats]]) -> dict[str, Floats]:
    """Name arrays as the graph names its inputs: `<name>_<layer>`."""
    return {f"{name}_{at}": one for name, each in arrays.items() for at, one in enumerate(each)}


def _in_order(made: Mapping[str, Floats], name: str, num: int) -> tuple[Floats, ...]:
    return tuple(made[f"{name}_{at}"] for at in range(num))


class _Session:
    """One graph, single-threaded."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # the library has no common root for its errors
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
