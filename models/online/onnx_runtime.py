"""What runs the online recommender for the finish: its contract, and ONNX Runtime in float32.

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


@dataclass(frozen=True, eq=False)
class HistoryState:
    """An encoded history, ready to be extended and to be searched below. Never changed.

    By layer: keys (N, E, H) and values (N, H, E). By level: queries (L, W) of what may come next,
    and logits (V), their products with the embeddings of the codes.
    """

    keys: tuple[Floats, ...]
    values: tuple[Floats, ...]
    queries_LW: Floats
    logits: tuple[Floats, ...]

    @property
    def num_items(self) -> int:
        return int(self.keys[0].shape[-1]) - 1

    @cached_property
    def num_bytes(self) -> int:
        arrays = [*chain(self.keys, self.values, self.logits), self.queries_LW]
        return sum(array.nbytes for array in arrays)


class Runtime(Protocol):
    """Not thread-safe. `precision` is how a release names what it was validated at."""

    config: RecommenderConfig
    precision: str
    nodes: NodeTables

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        """`past` and M more items, oldest first; without a past the history begins here."""


class BiasTables:
    """Attention biases of every history up to the longest, cut to size by slicing.

    Distances beyond the window were never trained: they count as the window's.
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
        """By layer: (N, num_new, num_past + num_new)."""
        end = num_past + num_new
        return tuple(np.ascontiguousarray(mask[:, num_past:end, :end]) for mask in self._mask)


class OnnxRuntime:
    """The graphs of a release on ONNX Runtime, on one thread of the CPU."""

    precision = ONNX

    def __init__(
        self, directory: Path, config: RecommenderConfig, weights: Mapping[str, Floats]
    ) -> None:
        """weights: of `online.safetensors`. Raises InvalidRelease for graphs that do not load."""
        self.config = config
        self.nodes = NodeTables(config, weights)
        self._bias = BiasTables(config, weights)
        self._start_1W = weights["start"][None, :]
        self._extend = _Session(directory / "extend.onnx")
        self._empty = self._no_history()

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

    def _no_history(self) -> HistoryState:
        """No row at all, not even the start."""
        config = self.config
        keys = np.zeros((config.heads, config.width // config.heads, 0), dtype=np.float32)
        layers = config.layers
        return HistoryState((keys,) * layers, (keys.swapaxes(1, 2),) * layers, keys, ())


def _by_layer(arrays: Mapping[str, Sequence[Floats]]) -> dict[str, Floats]:
    """As the graphs name their inputs: `<name>_<layer>`."""
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
