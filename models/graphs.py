"""The online recommender as ONNX graphs over the release's own weights.

Two kinds of graph: `extend` takes a history further by some items, `decode_<d>` runs the SID
decoder on nodes of depth d. They hold no weights: every tensor is a byte range of
`online.safetensors`, so a release stores each number once. The only file that imports onnx.
"""

# M = new history rows or decoder nodes, P = history rows so far, H = P + M, N = heads,
# E = head width, W = model width, L = levels, D = depth of a node, V = codes of a level

import json
import math
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


def write_graphs(directory: Path, config: RecommenderConfig) -> list[Path]:
    """Write `extend.onnx` and one `decode_<d>.onnx` a depth beside `online.safetensors`.

    Must be loaded from `directory`: the weights are found by relative path.
    """
    weights = _Weights(directory / "online.safetensors")
    models = {"extend.onnx": _extend_graph(config, weights)}
    for depth in range(1, len(config.sizes)):
        models[f"decode_{depth}.onnx"] = _decode_graph(config, weights, depth)
    for name, model in models.items():
        (directory / name).write_bytes(model.SerializeToString(deterministic=True))
    return [directory / name for name in models]


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

    def input(self, name: str, shape: list[int | str], *, is_code: bool = False) -> str:
        kind = TensorProto.INT64 if is_code else TensorProto.FLOAT
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, shape: list[int | str]) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
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

    def layer(self, x: str, at: int) -> str:
        """Entry `at` of the leading axis."""
        return self.one("Gather", x, self.constant(at), axis=0)

    def stack(self, parts: list[str]) -> str:
        lifted = [self.one("Unsqueeze", part, self.constant([0])) for part in parts]
        return lifted[0] if len(lifted) == 1 else self.one("Concat", *lifted, axis=0)

    def model(self, name: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._tensors.values())
        )
        return _model(graph)


def _extend_graph(config: RecommenderConfig, weights: _Weights) -> onnx.ModelProto:
    """M more history rows: their keys and values behind the old ones, and the root's node.

    Inputs: `items_MW` (code sums, or the start vector), `mask_BNMH` (bias by distance, -inf ahead),
    `tail_DNH` (the decoder's bias, the root last), and the state so far. Outputs: the new state.
    """
    b = _Builder(weights)
    width, num, e = config.width, config.heads, config.width // config.heads
    x = b.input("items", ["M", width])
    mask = b.input("mask", [config.encoder_layers, num, "M", "H"])
    tail = b.input("tail", [config.decoder_layers, num, 1, "T"])
    past_keys = b.input("past_keys", [config.encoder_layers, num, e, "P"])
    past_values = b.input("past_values", [config.encoder_layers, num, "P", e])
    past_attend_keys = b.input("past_attend_keys", [config.decoder_layers, num, e, "Q"])
    past_attend_values = b.input("past_attend_values", [config.decoder_layers, num, "Q", e])
    keys, values = [], []
    for at in range(config.encoder_layers):
        name = f"encoder.{at}"
        qkv = b.heads(b.linear(b.norm(x, f"{name}.norm"), f"{name}.qkv"), 3 * num, e)
        q, k, v = b.op("Split", qkv, num=3, axis=0, num_outputs=3)
        key = b.one("Transpose", k, perm=[0, 2, 1])
        keys.append(b.one("Concat", b.layer(past_keys, at), key, axis=2))
        values.append(b.one("Concat", b.layer(past_values, at), v, axis=1))
        scaled = b.one("Mul", q, b.constant(1 / math.sqrt(e)))
        scores = b.one("Add", b.one("MatMul", scaled, keys[-1]), b.layer(mask, at))
        mixed = b.one("MatMul", b.one("Softmax", scores, axis=-1), values[-1])
        x = b.one("Add", x, b.linear(b.merge(mixed, width), f"{name}.out"))
        x = b.gelu_mlp(x, f"{name}.mlp")
    states = b.norm(x, "encoder_norm")
    b.output("keys", b.stack(keys), [config.encoder_layers, num, e, "H"])
    b.output("values", b.stack(values), [config.encoder_layers, num, "H", e])

    last = b.slices(states, 0, -1, _NEWEST)
    projected = b.linear(last, "state_projection")
    b.output("projected", projected, [1, width])
    node = b.one("Add", projected, b.slices(b.weight("depth_embedding.weight"), 0, 0, 1))
    attend_keys, attend_values = [], []
    for at in range(config.decoder_layers):
        name = f"decoder.{at}"
        kv = b.heads(b.linear(states, f"{name}.history_kv"), 2 * num, e)
        k, v = b.op("Split", kv, num=2, axis=0, num_outputs=2)
        root = b.heads(b.linear(b.norm(node, f"{name}.norm"), f"{name}.qkv"), 3 * num, e)
        q, root_k, root_v = b.op("Split", root, num=3, axis=0, num_outputs=3)
        old_keys = b.slices(b.layer(past_attend_keys, at), 2, 0, -1)
        old_values = b.slices(b.layer(past_attend_values, at), 1, 0, -1)
        new_key = b.one("Transpose", b.one("Concat", k, root_k, axis=1), perm=[0, 2, 1])
        attend_keys.append(b.one("Concat", old_keys, new_key, axis=2))
        attend_values.append(b.one("Concat", old_values, v, root_v, axis=1))
        scaled = b.one("Mul", q, b.constant(1 / math.sqrt(e)))
        scores = b.one("Add", b.one("MatMul", scaled, attend_keys[-1]), b.layer(tail, at))
        mixed = b.one("MatMul", b.one("Softmax", scores, axis=-1), attend_values[-1])
        node = b.one("Add", node, b.linear(b.merge(mixed, width), f"{name}.out"))
        node = b.gelu_mlp(node, f"{name}.mlp")
    b.output("attend_keys", b.stack(attend_keys), [config.decoder_layers, num, e, "T"])
    b.output("attend_values", b.stack(attend_values), [config.decoder_layers, num, "T", e])
    b.output("logp", _code_logprobs(b, node, 0), [1, config.sizes[0]])
    return b.model("extend")


def _decode_graph(config: RecommenderConfig, weights: _Weights, depth: int) -> onnx.ModelProto:
    """M nodes of one depth below a history: log P(next code | history, codes of the node).

    Inputs: `codes_MD`, the history's state, and for nodes below depth 1 the keys and values of the
    nodes on the way (`near_keys`: layer, ancestor, node). The root stands among the history's keys.
    """
    b = _Builder(weights)
    width, num, e = config.width, config.heads, config.width // config.heads
    layers, num_near = config.decoder_layers, depth - 1
    codes = b.input("codes", ["M", depth], is_code=True)
    projected = b.input("projected", [1, width])
    keys = b.input("attend_keys", [layers, num, e, "T"])
    values = b.input("attend_values", [layers, num, "T", e])
    tail = b.input("tail", [layers, num, 1, "T"])
    if num_near:
        near_keys = b.input("near_keys", [layers, num_near, "M", width])
        near_values = b.input("near_values", [layers, num_near, "M", width])
    x = b.one("Add", projected, b.slices(b.weight("depth_embedding.weight"), 0, depth, depth + 1))
    for level in range(depth):
        code = b.one("Gather", codes, b.constant(level), axis=1)
        table = b.weight(f"code_embeddings.{level}.weight")
        x = b.one("Add", b.one("Gather", table, code, axis=0), x)
    own_keys, own_values = [], []
    for at in range(layers):
        name = f"decoder.{at}"
        flat = b.linear(b.norm(x, f"{name}.norm"), f"{name}.qkv")
        q, k, v = b.op("Split", b.heads(flat, 3 * num, e), num=3, axis=0, num_outputs=3)
        if depth < len(config.sizes) - 1:
            own_keys.append(b.slices(flat, 1, width, 2 * width))
            own_values.append(b.slices(flat, 1, 2 * width, 3 * width))
        q = b.one("Mul", q, b.constant(1 / math.sqrt(e)))
        scores = [b.one("Add", b.one("MatMul", q, b.layer(keys, at)), b.layer(tail, at))]
        seen = [v]
        for near in range(num_near):
            near_k = b.heads(b.layer(b.layer(near_keys, at), near), num, e)
            seen.append(b.heads(b.layer(b.layer(near_values, at), near), num, e))
            scores.append(_dot(b, q, near_k))
        scores.insert(1, _dot(b, q, k))
        weights_NMT = b.one("Softmax", b.one("Concat", *scores, axis=2), axis=-1)
        mixed = b.one("MatMul", b.slices(weights_NMT, 2, 0, -len(seen)), b.layer(values, at))
        for back, value in enumerate(reversed(seen), start=1):
            end = -back + 1 if back > 1 else _NEWEST
            share = b.slices(weights_NMT, 2, -back, end)
            mixed = b.one("Add", mixed, b.one("Mul", share, value))
        x = b.one("Add", x, b.linear(b.merge(mixed, width), f"{name}.out"))
        x = b.gelu_mlp(x, f"{name}.mlp")
    b.output("logp", _code_logprobs(b, x, depth), ["M", config.sizes[depth]])
    if own_keys:
        b.output("own_keys", b.stack(own_keys), [layers, "M", width])
        b.output("own_values", b.stack(own_values), [layers, "M", width])
    return b.model(f"decode_{depth}")


def _dot(b: _Builder, q: str, k: str) -> str:
    """(N, M, E) and (N, M, E) to (N, M, 1)."""
    return b.one("ReduceSum", b.one("Mul", q, k), b.constant([2]), keepdims=1)


def _code_logprobs(b: _Builder, x: str, depth: int) -> str:
    return b.one("LogSoftmax", b.linear(b.norm(x, "decoder_norm"), f"heads.{depth}"), axis=-1)
