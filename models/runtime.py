"""What runs the online recommender for the finish: its contract, and ONNX Runtime in float32.

A runtime takes a history further item by item and decodes SID nodes below it. numpy in, numpy
out: whoever holds one needs no torch. Knows nothing of catalogs, users or requests.
"""

# M = new rows or nodes, H = history rows (start + items), N = heads, E = head width,
# W = model width, L = levels, D = depth of a node, V = codes of a level

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import InvalidRelease
from models.shape import RecommenderConfig

ONNX = "onnx-float32"  # the precision, as releases and settings name it
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class HistoryState:
    """An encoded history, ready to be extended and to be decoded from. Never changed.

    By layer: keys (N, E, H), values (N, H, E), and tail, the bias by distance from the last row
    (N, 1, H). logp_V: log P(first code | history).
    """

    keys: tuple[Floats, ...]
    values: tuple[Floats, ...]
    tail: tuple[Floats, ...]
    logp_V: Floats

    @property
    def num_items(self) -> int:
        return int(self.keys[0].shape[-1]) - 1

    @cached_property
    def num_bytes(self) -> int:
        arrays = [*chain(self.keys, self.values, self.tail), self.logp_V]
        return sum(array.nbytes for array in arrays)

    @cached_property
    def feeds(self) -> dict[str, Floats]:
        """What decoding reads of it, by the names of the graphs' inputs."""
        return _by_layer({"keys": self.keys, "values": self.values, "tail": self.tail})


class Near(NamedTuple):
    """Keys and values of nodes, by layer: (M, W) each."""

    keys: tuple[Floats, ...]
    values: tuple[Floats, ...]

    def take(self, at_M: NDArray[np.int64]) -> "Near":
        return Near(
            tuple(keys.take(at_M, axis=0) for keys in self.keys),
            tuple(values.take(at_M, axis=0) for values in self.values),
        )

    def join(self, others: "Near") -> "Near":
        return Near(
            tuple(map(np.concatenate, zip(self.keys, others.keys, strict=True))),
            tuple(map(np.concatenate, zip(self.values, others.values, strict=True))),
        )


class Decoded(NamedTuple):
    """logp_MV: log P(next code | history, node) over the whole codebook.

    own: the nodes' keys and values for those below; None at the last depth.
    """

    logp_MV: Floats
    own: Near | None


class Runtime(Protocol):
    """Not thread-safe. `precision` is how a release names what it was validated at."""

    config: RecommenderConfig
    precision: str

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        """`past` and M more items, oldest first; without a past the history begins here."""

    def decode(
        self, state: HistoryState, codes_MD: NDArray[np.int64], near: Sequence[Near]
    ) -> Decoded:
        """Nodes of one depth D >= 1, given by their codes; `near`: those above, from depth 1 on."""


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

    def tail(self, num_rows: int) -> tuple[Floats, ...]:
        """The last row's, which is that of all nodes below it; by layer: (N, 1, num_rows)."""
        return self.mask(num_rows - 1, 1)


class ItemTable:
    """What the model reads of an item in a history (`OnlineRecommender.embed_items`)."""

    def __init__(self, config: RecommenderConfig, weights: Mapping[str, NDArray[Any]]) -> None:
        self._sizes = config.sizes
        self._codes = [weights[f"code_embeddings.{at}.weight"] for at in range(config.levels)]
        self._known = weights["known_sids"]
        self._own = weights["item_embedding.weight"]
        self._projection = np.ascontiguousarray(weights["item_projection.weight"].T)

    def own(self, sids_ML: NDArray[np.integer]) -> Floats:
        """What is known of each item beside its codes: (M, W)."""
        packed_M = np.ravel_multi_index(tuple(sids_ML.T), self._sizes)
        at_M = np.searchsorted(self._known, packed_M)
        is_known_M1 = (self._known[at_M] == packed_M)[:, None]
        rows_MW: Floats = (self._own[at_M] * is_known_M1) @ self._projection
        return rows_MW

    def rows(self, sids_ML: NDArray[np.integer]) -> Floats:
        """(M, W)."""
        total = self.own(sids_ML)
        for level, table in enumerate(self._codes):
            total += table[sids_ML[:, level]]
        return total


class OnnxRuntime:
    """The graphs of a release on ONNX Runtime, on one thread of the CPU."""

    precision = ONNX

    def __init__(
        self, directory: Path, config: RecommenderConfig, weights: Mapping[str, Floats]
    ) -> None:
        """weights: of `online.safetensors`. Raises InvalidRelease for graphs that do not load."""
        self.config = config
        self._bias = BiasTables(config, weights)
        self._start_1W = weights["start"][None, :]
        self._items = ItemTable(config, weights)
        self._extend = _Session(directory / "extend.onnx")
        self._decode = [_Session(directory / f"decode_{d}.onnx") for d in range(1, config.levels)]
        self._empty = self._no_history()

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        items_MW = self._items.rows(sids_ML)
        if past is None:
            past, items_MW = self._empty, np.concatenate([self._start_1W, items_MW])
        num_past, num_new = past.num_items + 1, len(items_MW)
        mask = self._bias.mask(num_past, num_new)
        past_rows = {"mask": mask, "past_keys": past.keys, "past_values": past.values}
        made = self._extend.run({"items": items_MW} | _by_layer(past_rows))
        return HistoryState(
            keys=_layers(made, "keys", self.config.layers),
            values=_layers(made, "values", self.config.layers),
            tail=self._bias.tail(num_past + num_new),
            logp_V=made["logp"][0],
        )

    def decode(
        self, state: HistoryState, codes_MD: NDArray[np.int64], near: Sequence[Near]
    ) -> Decoded:
        depth = codes_MD.shape[1]
        feeds: dict[str, NDArray[Any]] = dict(state.feeds)
        for level in range(depth):
            feeds[f"code_{level}"] = codes_MD[:, level]
        for number, above in enumerate(near, start=1):
            for at, (keys, values) in enumerate(zip(above.keys, above.values, strict=True)):
                feeds[f"near_keys_{at}_{number}"] = keys
                feeds[f"near_values_{at}_{number}"] = values
        made = self._decode[depth - 1].run(feeds)
        if depth == self.config.levels - 1:
            return Decoded(made["logp"], None)
        layers = self.config.layers
        own = Near(_layers(made, "own_keys", layers), _layers(made, "own_values", layers))
        return Decoded(made["logp"], own)

    def _no_history(self) -> HistoryState:
        """No row at all, not even the start."""
        config = self.config
        keys = np.zeros((config.heads, config.width // config.heads, 0), dtype=np.float32)
        layers = config.layers
        return HistoryState((keys,) * layers, (keys.swapaxes(1, 2),) * layers, (), keys)


def _by_layer(arrays: Mapping[str, Sequence[Floats]]) -> dict[str, Floats]:
    """As the graphs name their inputs: `<name>_<layer>`."""
    return {f"{name}_{at}": one for name, each in arrays.items() for at, one in enumerate(each)}


def _layers(made: Mapping[str, Floats], name: str, num: int) -> tuple[Floats, ...]:
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
            raise InvalidRelease(f"{file}: {' '.join(str(exc).split())[:200]}") from exc
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
