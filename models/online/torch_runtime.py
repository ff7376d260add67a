"""The torch runtime of the online recommender: any precision; float64 is the reference.

Also loads the online recommender of a release as a torch module.
"""

# M = new rows, N = heads, E = head width, W = model width, L = levels

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import InvalidRelease, one_line
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Searcher
from models.online.native_runtime import NativeRuntime
from models.online.nodes import Floats, NodeTables
from models.online.online_weights import read_online_weights
from models.online.onnx_runtime import BiasTables, HistoryState
from models.online.recommender import Layer, OnlineRecommender, split_heads
from models.online.shape import RecommenderConfig

DTYPES = {"torch-float32": torch.float32, "torch-bfloat16": torch.bfloat16}


def load_recommender(directory: Path, config: RecommenderConfig) -> OnlineRecommender:
    """Load the online recommender of a release directory, in eval mode.

    Raises InvalidRelease if the weights do not fit the configuration.
    """
    file = directory / "online.safetensors"
    weights = read_online_weights(file, config)
    return _filled(file, _tensors(weights), config)


def _filled(
    file: Path, weights: Mapping[str, Tensor], config: RecommenderConfig
) -> OnlineRecommender:
    try:
        recommender = OnlineRecommender(config)
        recommender.load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError) as exc:
        raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
    return recommender.eval()


def copy_recommender(recommender: OnlineRecommender, dtype: torch.dtype) -> OnlineRecommender:
    copy = OnlineRecommender(recommender.config)
    copy.load_state_dict(recommender.state_dict())
    return copy.to(dtype).eval()


def load_torch_runtime(
    file: Path, weights: Mapping[str, NDArray[Any]], config: RecommenderConfig, precision: str
) -> "TorchRuntime":
    """Load a runtime for a serving process, and limit torch to one thread.

    Two threads beside other work were 20 times slower. Raises InvalidRelease, which names `file`.
    """
    torch.set_num_threads(1)
    return TorchRuntime(_filled(file, _tensors(weights), config).to(DTYPES[precision]))


def _tensors(weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def fastest_searcher(recommender: OnlineRecommender) -> Searcher:
    """Serve a recommender from memory: native if this machine has a kernel, otherwise torch."""
    if built_library() is None:
        return NumpySearch(TorchRuntime(recommender))
    weights = {name: _numpy(value) for name, value in recommender.state_dict().items()}
    return NativeRuntime(recommender.config, weights)


class TorchRuntime:
    """Runs an online recommender in its own dtype. Results in bfloat16 are returned as float32."""

    def __init__(self, recommender: OnlineRecommender) -> None:
        self.config = recommender.config
        self._model = recommender.eval()
        self._dtype = recommender.start.dtype
        self.precision = f"torch-{str(self._dtype).removeprefix('torch.')}"
        weights = {name: _numpy(value) for name, value in recommender.state_dict().items()}
        self.nodes = NodeTables(self.config, weights)
        self._bias = BiasTables(self.config, weights)

    @torch.inference_mode()
    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        model = self._model
        x_MW = model.embed_items(torch.from_numpy(sids_ML.astype(np.int64)))
        if past is None:
            x_MW = torch.cat([model.start.unsqueeze(0), x_MW])
        num_past = past.num_items + 1 if past else 0
        mask = self._bias.mask(num_past, len(x_MW))
        keys, values = [], []
        for at, layer in enumerate(cast("Sequence[Layer]", model.layers)):
            q, k, v = split_heads(layer.qkv(layer.norm(x_MW)), layer.num_heads, 3)
            if past:
                k = torch.cat([self._tensor(past.keys[at]).transpose(1, 2), k], dim=1)
                v = torch.cat([self._tensor(past.values[at]), v], dim=1)
            keys.append(k.transpose(1, 2))
            values.append(v)
            weights = (q * q.shape[-1] ** -0.5 @ keys[-1] + self._tensor(mask[at])).softmax(dim=-1)
            x_MW = x_MW + layer.out(_merge(weights @ v))
            x_MW = x_MW + layer.mlp(x_MW)
        last_W = model.norm(x_MW[-1])
        queries = [query(last_W) for query in model.queries]
        both = zip(model.code_embeddings, queries, strict=True)
        logits = [cast("Tensor", codes.weight) @ query_W for codes, query_W in both]
        return HistoryState(
            keys=tuple(map(_numpy, keys)),
            values=tuple(map(_numpy, values)),
            queries_LW=_numpy(torch.stack(queries)),
            logits=tuple(map(_numpy, logits)),
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._dtype)


def _merge(x_NME: Tensor) -> Tensor:
    """Merge heads: (N, M, E) to (M, W)."""
    return x_NME.transpose(0, 1).flatten(1)


def _numpy(x: Tensor) -> Floats:
    x = x.detach()
    array: Floats = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return array
