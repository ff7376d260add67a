"""The online recommender as an ONNX graph over the release's own weights.

`extend` appends items to an encoded history. It holds no weights: every tensor is a byte range of
`online.safetensors`, so a release stores each number once. The only file that imports onnx.
"""

# M = new history rows, P = history rows so far, H = P + M, N = heads, E = head width,
# W = model width, V = codes of a level

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.online.shape import RecommenderConfig

OPSET = 20  # the first with Gelu
_IR_VERSION = 10
_NEWEST = 2**62  # the end of an axis, for Slice


def write_graph(directory: Path, config: RecommenderConfig) -> None:
    """Write `extend.onnx` beside `online.safetensors`.

    Load it from `directory`: it refers to the weights by relative path.
    """
    model = _extend_graph(config, _Weights(directory / "online.safetensors"))
    (directory / "extend.onnx").write_bytes(model.SerializeToString(deterministic=True))


def product_graph() -> bytes:
    """Return the graph `c = a @ b`, with which a benchmark measures the core's peak speed."""
    float_matrix = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [float_matrix("a", shape=["m", "k"]), float_matrix("b", shape=["k", "n"])],
        [float_matrix("c", shape=["m", "n"])],
    )
    raw: bytes = _model(graph).SerializeToString(deterministic=True)
    return raw


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )
    model.producer_name = "think-ahead"
    return model


class _Weights:
    """Positions of the tensors in a safetensors file."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            num_header = int.from_bytes(stream.read(8), "little")
            self._entries = json.loads(stream.read(num_header))
        self._first = 8 + num_header
        self._name = file.name

    def external(self, name: str) -> TensorProto:
        """Return a float32 initializer that points into the file."""
        entry = self._entries[name]
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, expected F32")
        start, end = entry["data_offsets"]
        tensor = TensorProto(name=name, dims=entry["shape"], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._name, "offset": self._first + start, "length": end - start}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


class _Builder:
    """Collects nodes and initializers; every method returns the name of its result."""

    def __init__(self, weights: _Weights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._renamed: dict[str, str] = {}

    def input(self, name: str, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, value: str, shape: list[int | str]) -> None:
        """Name a result as an output of the graph, without a copy."""
        self._renamed[value] = name
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, kind: str, *inputs: str, num: int = 1, **attributes: Any) -> list[str]:
        outputs = [f"t{len(self._nodes)}_{at}" for at in range(num)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.op(kind, *inputs, **attributes)[0]

    def weight(self, name: str) -> str:
        self._tensors.setdefault(name, self._weights.external(name))
        return name

    def constant(self, value: int | float | list[int]) -> str:
        array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        name = f"c_{value}"
        self._tensors.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, module: str) -> str:
        return self.one(
            "Gemm", x, self.weight(f"{module}.weight"), self.weight(f"{module}.bias"), transB=1
        )

    def norm(self, x: str, module: str) -> str:
        scale, bias = self.weight(f"{module}.weight"), self.weight(f"{module}.bias")
        return self.one("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)

    def gelu_mlp(self, x: str, module: str) -> str:
        """Add the MLP of x to x."""
        up = self.linear(self.norm(x, f"{module}.norm"), f"{module}.up")
        return self.one("Add", x, self.linear(self.one("Gelu", up), f"{module}.down"))

    def heads(self, x: str, num: int, width: int) -> str:
        """Split heads: (M, num * E) to (num, M, E)."""
        split = self.one("Reshape", x, self.constant([0, num, width]))
        return self.one("Transpose", split, perm=[1, 0, 2])

    def merge(self, x: str, width: int) -> str:
        """Merge heads: (N, M, E) to (M, W)."""
        rows = self.one("Transpose", x, perm=[1, 0, 2])
        return self.one("Reshape", rows, self.constant([0, width]))

    def slices(self, x: str, axis: int, start: int, end: int) -> str:
        c = self.constant
        return self.one("Slice", x, c([start]), c([end]), c([axis]))

    def model(self, name: str) -> onnx.ModelProto:
        for node in self._nodes:
            node.input[:] = [self._renamed.get(value, value) for value in node.input]
            node.output[:] = [self._renamed.get(value, value) for value in node.output]
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._tensors.values())
        )
        return _model(graph)


def _extend_graph(config: RecommenderConfig, weights: _Weights) -> onnx.ModelProto:
    """Build the graph that appends M rows to a history and reads the queries of the last row.

    Inputs: `items` (embedded items, or the start vector), `mask_<layer>` (bias by distance, -inf
    ahead) and the old state. Outputs: the new state.
    """
    b = _Builder(weights)
    width, num, e = config.width, config.heads, config.width // config.heads
    x = b.input("items", ["M", width])
    for at in range(config.layers):
        name = f"layers.{at}"
        q, k, v = _project(b, x, name, config)
        past_key = b.input(f"past_keys_{at}", [num, e, "P"])
        past_value = b.input(f"past_values_{at}", [num, "P", e])
        mask = b.input(f"mask_{at}", [num, "M", "H"])
        key = b.one("Concat", past_key, b.one("Transpose", k, perm=[0, 2, 1]), axis=2)
        value = b.one("Concat", past_value, v, axis=1)
        b.output(f"keys_{at}", key, [num, e, "H"])
        b.output(f"values_{at}", value, [num, "H", e])
        x = _attend(b, x, q, key, value, mask, name, config)
    last = b.norm(b.slices(x, 0, -1, _NEWEST), "norm")
    for level, size in enumerate(config.sizes):
        query = b.linear(last, f"queries.{level}")
        codes = b.weight(f"code_embeddings.{level}.weight")
        b.output(f"query_{level}", query, [1, width])
        b.output(f"logits_{level}", b.one("Gemm", query, codes, transB=1), [1, size])
    return b.model("extend")


def _project(b: _Builder, x: str, layer: str, config: RecommenderConfig) -> list[str]:
    """Project rows (M, W) to queries, keys and values: (N, M, E) each."""
    flat = b.linear(b.norm(x, f"{layer}.norm"), f"{layer}.qkv")
    heads = b.heads(flat, 3 * config.heads, config.width // config.heads)
    return b.op("Split", heads, num=3, axis=0, num_outputs=3)


def _attend(
    b: _Builder,
    x: str,
    q: str,
    keys: str,
    values: str,
    bias: str,
    name: str,
    config: RecommenderConfig,
) -> str:
    """Add attention over the history to x, then the MLP."""
    q = b.one("Mul", q, b.constant(1 / math.sqrt(config.width // config.heads)))
    weights = b.one("Softmax", b.one("Add", b.one("MatMul", q, keys), bias), axis=-1)
    mixed = b.one("MatMul", weights, values)
    x = b.one("Add", x, b.linear(b.merge(mixed, config.width), f"{name}.out"))
    return b.gelu_mlp(x, f"{name}.mlp")
