"""The file `online.safetensors`: its tensors, checked against the sizes of the recommender.

The compiled kernel and the graph compute addresses from the sizes, so nothing may reach them
unchecked. Needs no torch.
"""

# K = known prefixes of one depth

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from models.errors import InvalidRelease, one_line
from models.online.shape import BIAS_ROWS, UNKNOWN_SID, RecommenderConfig


class Form(NamedTuple):
    """Type and shape of one tensor, as safetensors names them."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_online_weights(file: Path, config: RecommenderConfig) -> dict[str, NDArray[Any]]:
    """Read the tensors of a recommender, by name.

    Compares the header of the file first, so that a wrong shape costs no memory.

    Raises InvalidRelease, which names the file and the tensor.
    """
    try:
        with safe_open(file, "np") as stored:
            _compare(file, _stored_forms(stored), dict(_forms(config)))
        weights = load_file(file)
    except (SafetensorError, OSError) as exc:
        raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InvalidRelease(f"{file}: {name}: expected finite numbers")
    _check_known(file, weights, config)
    return weights


def _stored_forms(stored: Any) -> dict[str, Form]:
    forms = {}
    for name in stored.keys():  # noqa: SIM118 - it is not a mapping
        tensor = stored.get_slice(name)
        forms[name] = Form(tensor.get_dtype(), tuple(tensor.get_shape()))
    return forms


def _compare(file: Path, found: Mapping[str, Form], expected: Mapping[str, Form]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise InvalidRelease(
                f"{file}: {name}: {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such tensor')}"
            )


def _forms(config: RecommenderConfig) -> Iterator[tuple[str, Form]]:
    """Yield the name and the form of each tensor of a recommender."""
    width = config.width
    yield "start", Form("F32", (width,))
    yield from _norm("norm", width)
    for level, size in enumerate(config.sizes):
        yield from _linear(f"queries.{level}", width, width)
        yield f"code_embeddings.{level}.weight", Form("F32", (size, width))
    for at, num in enumerate(config.known_nodes):
        yield f"node_embeddings.{at}.own.weight", Form("F32", (num + 1, width))
        yield f"node_embeddings.{at}.known", Form("I64", (num + 1,))
    for at in range(config.layers):
        yield from _layer(f"layers.{at}", config)


def _layer(name: str, config: RecommenderConfig) -> Iterator[tuple[str, Form]]:
    width, inner = config.width, config.mlp * config.width
    yield from _norm(f"{name}.norm", width)
    yield from _linear(f"{name}.qkv", 3 * width, width)
    yield from _linear(f"{name}.out", width, width)
    yield f"{name}.bias.weight", Form("F32", (BIAS_ROWS, config.heads))
    yield from _norm(f"{name}.mlp.norm", width)
    yield from _linear(f"{name}.mlp.up", inner, width)
    yield from _linear(f"{name}.mlp.down", width, inner)


def _norm(name: str, width: int) -> Iterator[tuple[str, Form]]:
    yield f"{name}.weight", Form("F32", (width,))
    yield f"{name}.bias", Form("F32", (width,))


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Form]]:
    yield f"{name}.weight", Form("F32", (outputs, inputs))
    yield f"{name}.bias", Form("F32", (outputs,))


def _check_known(
    file: Path, weights: Mapping[str, NDArray[Any]], config: RecommenderConfig
) -> None:
    """Check the packed prefixes of each depth: ascending, and the mark of unknown ones last."""
    num_prefixes = config.sizes[0]
    for at, size in enumerate(config.sizes[1:]):
        num_prefixes *= size
        name = f"node_embeddings.{at}"
        known_K = weights[f"{name}.known"]
        is_sound = known_K[-1] == UNKNOWN_SID and (np.diff(known_K) > 0).all() and known_K[0] >= 0
        if not is_sound or (len(known_K) > 1 and known_K[-2] >= num_prefixes):
            raise InvalidRelease(
                f"{file}: {name}.known: expected packed prefixes 0..{num_prefixes - 1}, "
                f"ascending, and {UNKNOWN_SID} behind them"
            )
        if weights[f"{name}.own.weight"][-1].any():
            raise InvalidRelease(f"{file}: {name}.own.weight: expected zeros in the last row")
