"""What runs the online recommender for the finish: its contract, and ONNX Runtime in float32.

A runtime takes a history further item by item and decodes SID nodes below it. numpy in, numpy
out: whoever holds one needs no torch. Knows nothing of catalogs, users or requests.
"""

# M = new items or nodes, H = history rows (start + items), T = H + the root's node, N = heads,
# E = head width, W = model width, L = levels, D = depth of a node, V = codes of a level

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    keys, values: of the encoder (layer, N, E, H) and (layer, N, H, E). attend_keys, attend_values:
    of the decoder, the root's node last (layer, N, E, T) and (layer, N, T, E). tail: the decoder's
    bias by distance (layer, N, 1, T), 0 for the root. projected: what every node adds (1, W).
    logp_V: log P(first code | history).
    """

    keys: Floats
    values: Floats
    attend_keys: Floats
    attend_values: Floats
    tail: Floats
    projected: Floats
    logp_V: Floats

    @property
    def num_items(self) -> int:
        return int(self.keys.shape[-1]) - 1

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in vars(self).values())


class Near(NamedTuple):
    """Decoder keys and values of nodes: (layer, M, W) each."""

    keys: Floats
    values: Floats


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
        encoder = [weights[f"encoder.{at}.bias.weight"] for at in range(config.encoder_layers)]
        mask = np.stack([table[clipped].transpose(2, 0, 1) for table in encoder])
        mask[:, :, distance < 0] = -np.inf
        self._mask = mask
        back = np.minimum(rows[::-1], config.max_distance)
        decoder = [weights[f"decoder.{at}.bias.weight"] for at in range(config.decoder_layers)]
        tail = np.stack([table[back].T for table in decoder])[:, :, None, :]
        self._tail = np.concatenate([tail, np.zeros_like(tail[..., :1])], axis=-1)

    def mask(self, num_past: int, num_new: int) -> Floats:
        """(layer, N, num_new, num_past + num_new)."""
        end = num_past + num_new
        return np.ascontiguousarray(self._mask[:, :, num_past:end, :end])

    def tail(self, num_rows: int) -> Floats:
        """(layer, N, 1, num_rows + 1)."""
        return np.ascontiguousarray(self._tail[..., -(num_rows + 1) :])


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
        self._tables = [weights[f"code_embeddings.{at}.weight"] for at in range(config.levels)]
        self._extend = _Session(directory / "extend.onnx")
        self._decode = [_Session(directory / f"decode_{d}.onnx") for d in range(1, config.levels)]
        self._empty = self._no_history()

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        items_MW = sum(table[sids_ML[:, level]] for level, table in enumerate(self._tables))
        if past is None:
            past, items_MW = self._empty, np.concatenate([self._start_1W, items_MW])
        num_past, num_new = past.keys.shape[-1], len(items_MW)
        tail = self._bias.tail(num_past + num_new)
        made = self._extend.run(
            items=items_MW,
            mask=self._bias.mask(num_past, num_new),
            tail=tail,
            past_keys=past.keys,
            past_values=past.values,
            past_attend_keys=past.attend_keys,
            past_attend_values=past.attend_values,
        )
        return HistoryState(
            keys=made["keys"],
            values=made["values"],
            attend_keys=made["attend_keys"],
            attend_values=made["attend_values"],
            tail=tail,
            projected=made["projected"],
            logp_V=made["logp"][0],
        )

    def decode(
        self, state: HistoryState, codes_MD: NDArray[np.int64], near: Sequence[Near]
    ) -> Decoded:
        feeds = {
            "codes": codes_MD,
            "projected": state.projected,
            "attend_keys": state.attend_keys,
            "attend_values": state.attend_values,
            "tail": state.tail,
        }
        if near:
            feeds["near_keys"] = np.stack([above.keys for above in near], axis=1)
            feeds["near_values"] = np.stack([above.values for above in near], axis=1)
        made = self._decode[codes_MD.shape[1] - 1].run(**feeds)
        own = Near(made["own_keys"], made["own_values"]) if "own_keys" in made else None
        return Decoded(made["logp"], own)

    def _no_history(self) -> HistoryState:
        """No row at all, not even the start; the root's column holds nothing that is read."""
        config = self.config
        heads, width = config.heads, config.width // config.heads
        keys = np.zeros((config.encoder_layers, heads, width, 0), dtype=np.float32)
        attend = np.zeros((config.decoder_layers, heads, width, 1), dtype=np.float32)
        nothing = np.zeros(0, dtype=np.float32)
        return HistoryState(
            keys=keys,
            values=keys.swapaxes(2, 3),
            attend_keys=attend,
            attend_values=attend.swapaxes(2, 3),
            tail=nothing,
            projected=nothing,
            logp_V=nothing,
        )


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

    def run(self, **feeds: NDArray[Any]) -> dict[str, Floats]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
