"""Alterations of a release by an attacker, who makes the digests right again."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from models.release.release_files import digest

Alteration = Callable[[Path], None]

NUMBERS = (-1, 0, 1, 2, 3, 7, 33, 64, 4096, 200_000, 2**20, 2**31, 2**63, 2**64, 0.5, -0.0, 1e308)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    math.nan,
    math.inf,
    None,
    True,
    "",
    "x",
    "../x",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
)
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
TENSOR_FILES = ("online.safetensors", "neighbours.safetensors", "codebooks.safetensors")
_SIZES = (0, 1, 2, 31, 33, 65, 4096)


def rewrite_digests(directory: Path) -> None:
    """Write the digests of the files that are there into the manifest, if it can be read."""
    file = directory / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
        names = [name for name in manifest["files"] if (directory / name).is_file()]
        manifest["files"] |= {name: digest(directory / name) for name in names}
    except (ValueError, TypeError, KeyError):
        return
    file.write_text(json.dumps(manifest))


@st.composite
def alterations(draw: st.DrawFn) -> Alteration:
    """Draw one alteration of a field, a tensor, a column or the bytes of a file."""
    kind = draw(st.sampled_from(["field", "tensor", "tensor", "column", "bytes"]))
    return draw({"field": fields, "tensor": tensors, "column": columns, "bytes": raw_bytes}[kind]())


@st.composite
def fields(draw: st.DrawFn) -> Alteration:
    """Draw another value for one place of the manifest."""
    part = draw(st.sampled_from(["recommender", "recommender", "memory", "space", "top"]))
    which, value = draw(st.integers(0, 40)), draw(st.sampled_from(VALUES))
    removes = draw(st.integers(0, 9)) == 0

    def alter(directory: Path) -> None:
        file = directory / "manifest.json"
        manifest = json.loads(file.read_text())
        place = manifest if part == "top" else manifest[part]
        name = sorted(place)[which % len(place)]
        if removes:
            del place[name]
        elif isinstance(place[name], list) and place[name] and which % 2:
            place[name][0] = value
        else:
            place[name] = value
        file.write_text(json.dumps(manifest))

    return alter


@st.composite
def tensors(draw: st.DrawFn) -> Alteration:
    """Draw another shape, type or value for one tensor of a file, or another set of tensors."""
    name, which = draw(st.sampled_from(TENSOR_FILES)), draw(st.integers(0, 60))
    kind = draw(st.sampled_from(["resize", "resize", "flat", "type", "value", "drop", "rename"]))
    size, axis = draw(st.sampled_from(_SIZES)), draw(st.integers(0, 1))
    dtype, value = draw(st.sampled_from(DTYPES)), draw(st.sampled_from((*NUMBERS, math.nan)))

    def alter(directory: Path) -> None:
        held = load_file(directory / name)
        key = sorted(held)[which % len(held)]
        if kind == "drop":
            del held[key]
        elif kind == "rename":
            held[key + "s"] = held.pop(key)
        else:
            held[key] = _altered(held[key], kind, size=size, axis=axis, dtype=dtype, value=value)
        arrays = {key: np.ascontiguousarray(tensor) for key, tensor in held.items()}
        save_file(arrays, directory / name)

    return alter


def _altered(tensor: Any, kind: str, *, size: int, axis: int, dtype: str, value: float) -> Any:
    if kind == "resize":
        shape = list(tensor.shape)
        shape[axis % len(shape)] = size
        return np.resize(tensor, shape) if tensor.size else np.zeros(shape, tensor.dtype)
    if kind == "flat":
        return tensor.reshape(-1)
    with np.errstate(all="ignore"):
        if kind == "type":
            return tensor.astype(dtype)
        altered = tensor.copy()
        if altered.size:
            is_float = altered.dtype.kind == "f"
            altered.flat[size % altered.size] = value if is_float else _clipped(value)
        return altered


def _clipped(value: float) -> int:
    return 0 if math.isnan(value) else int(max(min(value, 2**31 - 1), -(2**31)))


@st.composite
def columns(draw: st.DrawFn) -> Alteration:
    """Draw another column of the catalog, or none."""
    which, row = draw(st.integers(0, 20)), draw(st.integers(0, 199))
    value = draw(st.sampled_from([None, -1, 0, 7, 2**31 - 1, "", "item-0", "\0"]))

    def alter(directory: Path) -> None:
        file = directory / "catalog.parquet"
        table = pq.read_table(file)
        name = table.column_names[which % table.num_columns]
        cells = table[name].to_pylist()
        cells[row] = value
        rest = table.drop_columns([name])
        if which < 14:
            kind = type(value) if value is not None else None
            cells = [None if cell is None or kind is None else cell for cell in cells]
            try:
                rest = rest.append_column(name, pa.array(cells))
            except (pa.ArrowException, TypeError):
                rest = rest.append_column(name, pa.array([str(cell) for cell in cells]))
        pq.write_table(rest, file)

    return alter


@st.composite
def raw_bytes(draw: st.DrawFn) -> Alteration:
    """Draw flips or a cut of the bytes of any file."""
    which, places = draw(st.integers(0, 20)), draw(st.lists(st.floats(0, 1), max_size=4))
    new, cuts = draw(st.binary(min_size=1, max_size=8)), draw(st.booleans())

    def alter(directory: Path) -> None:
        files = sorted(file for file in directory.rglob("*") if file.is_file())
        file = files[which % len(files)]
        raw = bytearray(file.read_bytes())
        for place in places:
            at = int(place * len(raw))
            raw[at : at + len(new)] = new
        file.write_bytes(raw[: len(raw) // 2] if cuts else raw)

    return alter
