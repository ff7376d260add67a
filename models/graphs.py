"""The online recommender as ONNX graphs over the release's own weights.

Two kinds of graph: `extend` takes a history further by some items, `decode_<d>` runs nodes of
depth d. They hold no weights: every tensor is a byte range of
`online.safetensors`, so a release stores each number once. The only file that imports onnx.
"""

# M = new history rows or nodes, P = history rows so far, H = P + M, N = heads,
# E = head width, W = model width, L = levels, D = depth of a node, V = codes of a level

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.shape import RecommenderConfig

OPSET = 20  # the first with Gelu
_IR_VERSION = 10
_NEWEST = 2**62  # the end of an axis, for Slice


def write_graphs(directory: Path, config: RecommenderConfig) -> None:
    """Write `extend.onnx` and one `decode_<d>.onnx` a depth beside `online.safetensors`.

    Must be loaded from `directory`: the weights are found by relative path.
    """
    weights = _Weights(directory / "online.safetensors")
    models = {"extend.onnx": _extend_graph(config, weights)}
    for depth in range(1, len(config.sizes)):
        models[f"decode_{depth}.onnx"] = _decode_graph(config, weights, depth)
    for name, model in models.items():
        (directory / name).write_bytes(model.SerializeToString(deterministic=True))


def product_graph() -> bytes:
    """`c = a @ b` and nothing else: what a benchmark holds the core's speed against."""
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
    """Where each tensor lies in a safetensors file."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            num_header = int.from_bytes(stream.read(8), "little")
            self._entries = json.loads(stream.read(num_header))
        self._first = 8 + num_header
        self._name = file.name

    def external(self, name: str) -> TensorProto:
        """A float32 initializer that points into the file."""
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

    def input(self, name: str, shape: list[int | str], *, is_code: bool = False) -> str:
        kind = TensorProto.INT64 if is_code else TensorProto.FLOAT
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, shape: list[int | str]) -> None:
        """Give a result its name outside; no copy is made for it."""
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
        """x plus its MLP."""
        up = self.linear(self.norm(x, f"{module}.norm"), f"{module}.up")
        return self.one("Add", x, self.linear(self.one("Gelu", up), f"{module}.down"))

    def heads(self, x: str, num: int, width: int) -> str:
        """(M, num * E) to (num, M, E)."""
        split = self.one("Reshape", x, self.constant([0, num, width]))
        return self.one("Transpose", split, perm=[1, 0, 2])

    def merge(self, x: str, width: int) -> str:
        """(N, M, E) to (M, W)."""
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
    """M more history rows: their keys and values behind the old ones, and log P(first code).

    Inputs: `items` (code sums, or the start vector), `mask_<layer>` (bias by distance, -inf ahead)
    and the state so far. Outputs: the new one.
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
    b.output("logp", _code_logprobs(b, b.slices(x, 0, -1, _NEWEST), 0), [1, config.sizes[0]])
    return b.model("extend")


def _decode_graph(config: RecommenderConfig, weights: _Weights, depth: int) -> onnx.ModelProto:
    """M nodes of one depth below a history: log P(next code | history, codes of the node).

    Inputs: `code_<level>`, the history's state, and for nodes below depth 1 the keys and values of
    the nodes on the way (`near_keys_<layer>_<depth>`).
    """
    b = _Builder(weights)
    width, num, e = config.width, config.heads, config.width // config.heads
    x = b.slices(b.weight("depth_embedding.weight"), 0, depth - 1, depth)
    for level in range(depth):
        code = b.input(f"code_{level}", ["M"], is_code=True)
        table = b.weight(f"code_embeddings.{level}.weight")
        x = b.one("Add", b.one("Gather", table, code, axis=0), x)
    if depth > 1:
        x = b.one("Add", _pairs(b, config), x)
    for at in range(config.layers):
        name = f"layers.{at}"
        keys = b.input(f"keys_{at}", [num, e, "H"])
        values = b.input(f"values_{at}", [num, "H", e])
        tail = b.input(f"tail_{at}", [num, 1, "H"])
        flat = b.linear(b.norm(x, f"{name}.norm"), f"{name}.qkv")
        q, k, v = b.op("Split", b.heads(flat, 3 * num, e), num=3, axis=0, num_outputs=3)
        if depth < config.levels - 1:
            own_key, own_value = (b.slices(flat, 1, n * width, (n + 1) * width) for n in (1, 2))
            b.output(f"own_keys_{at}", own_key, ["M", width])
            b.output(f"own_values_{at}", own_value, ["M", width])
        on_way = [(k, v)]
        for above in range(1, depth):
            near_k = b.input(f"near_keys_{at}_{above}", ["M", width])
            near_v = b.input(f"near_values_{at}_{above}", ["M", width])
            on_way.append((b.heads(near_k, num, e), b.heads(near_v, num, e)))
        x = _attend(b, x, q, keys, values, tail, name, config, on_way)
    b.output("logp", _code_logprobs(b, x, depth), ["M", config.sizes[depth]])
    return b.model(f"decode_{depth}")


def _pairs(b: _Builder, config: RecommenderConfig) -> str:
    """The embedding of the first two codes together: (M, W)."""
    first = b.one("Mul", "code_0", b.constant(config.sizes[1]))
    pair = b.one("Mod", b.one("Add", first, "code_1"), b.constant(config.pair_rows))
    return b.one("Gather", b.weight("pair_embedding.weight"), pair, axis=0)


def _project(b: _Builder, x: str, layer: str, config: RecommenderConfig) -> list[str]:
    """Queries, keys and values of rows (M, W): (N, M, E) each."""
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
    on_way: Sequence[tuple[str, str]] = (),
) -> str:
    """x plus one softmax over history rows, and over the key of each row's own on the way; MLP."""
    q = b.one("Mul", q, b.constant(1 / math.sqrt(config.width // config.heads)))
    scores = b.one("Add", b.one("MatMul", q, keys), bias)
    if on_way:
        near = [
            b.one("ReduceSum", b.one("Mul", q, key), b.constant([2]), keepdims=1)
            for key, _ in on_way
        ]
        weights = b.one("Softmax", b.one("Concat", scores, *near, axis=2), axis=-1)
        mixed = b.one("MatMul", b.slices(weights, 2, 0, -len(on_way)), values)
        for back, (_, value) in enumerate(reversed(on_way), start=1):
            share = b.slices(weights, 2, -back, -back + 1 if back > 1 else _NEWEST)
            mixed = b.one("Add", mixed, b.one("Mul", share, value))
    else:
        mixed = b.one("MatMul", b.one("Softmax", scores, axis=-1), values)
    x = b.one("Add", x, b.linear(b.merge(mixed, config.width), f"{name}.out"))
    return b.gelu_mlp(x, f"{name}.mlp")


def _code_logprobs(b: _Builder, x: str, depth: int) -> str:
    return b.one("LogSoftmax", b.linear(b.norm(x, "norm"), f"heads.{depth}"), axis=-1)
