"""Floating-point operations of a finish, and the peak rate of the core.

A multiply-add counts as two operations. Embedding look-ups, norms and softmaxes are not counted;
they are a few percent.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from models.online.onnx_graph import product_graph
from models.online.shape import RecommenderConfig

_SIDE = 1024
_TRIES = 7


def row_flop(config: RecommenderConfig, num_rows: int) -> float:
    """Return the operations of one row that attends to `num_rows` rows, itself included."""
    layer = 2 * (4 + 2 * config.mlp) * config.width**2 + 4 * num_rows * config.width
    return config.layers * layer


def query_flop(config: RecommenderConfig) -> float:
    """Return the operations of one query per level and its products with all code embeddings."""
    return sum(2 * config.width * (config.width + size) for size in config.sizes)


def measured_peak() -> dict[str, float]:
    """Return GFLOP/s of a large float32 matrix product on one thread, by library; best of 7."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(_SIDE, _SIDE)).astype(np.float32) for _ in range(2))
    a_torch, b_torch = torch.from_numpy(a), torch.from_numpy(b)
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(product_graph(), options, providers=["CPUExecutionProvider"])
    return {
        "numpy": _best(lambda: a @ b),
        "torch": _best(lambda: a_torch @ b_torch),
        "onnxruntime": _best(lambda: session.run(None, {"a": a, "b": b})),
    }


def _best(multiply: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIES):
        started = time.process_time_ns()
        multiply()
        seconds.append((time.process_time_ns() - started) / 1e9)
    return 2 * _SIDE**3 / min(seconds) / 1e9
