"""A delta: what learning changed in a live release, as one numbered file on a named base.

Holds whole new neighbour lists of some items, and new weights: dense tensors whole, of the tables
of codes and nodes the changed rows. A header names the base, the number, and the SHA-256 of the
delta before, so that deltas form a chain. Knows nothing of folders or of how a model learns.
"""

# R = changed rows, P = pairs, W = model width

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.durable import write_durably
from models.errors import InvalidRelease, one_line

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Weights = Mapping[str, NDArray[Any]]  # the tensors of `online.safetensors`, by name

_TABLE = re.compile(r"(code_embeddings\.\d+|node_embeddings\.\d+\.own)\.weight")
_KNOWN = re.compile(r"node_embeddings\.\d+\.known")
_HEADER = "delta"
_COUNTS: dict[str, type] = {
    "counts.row": np.int64,
    "counts.first": np.int64,
    "counts.neighbour": np.int32,
    "counts.weight": np.float32,
}


class DeltaHeader(BaseModel):
    """The place of a delta in its chain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]  # version of the base release
    number: Annotated[int, Field(ge=1)]  # deltas of a base are numbered from 1
    parent: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]  # SHA-256 of the delta before
    watermark: str  # entry in the log of the last event that was learnt
    made_ms: Annotated[int, Field(ge=0)]  # unix milliseconds


class CountsDelta(NamedTuple):
    """The new neighbour lists of some items, each whole, strongest first."""

    row_R: Ints  # catalog rows, ascending
    first: Ints  # (R + 1,), of each row its first place in the arrays below
    neighbour_P: NDArray[np.int32]  # catalog rows
    weight_P: Floats


class ChangedLists:
    """The neighbour lists of several deltas together: of each item the last one."""

    def __init__(self) -> None:
        self._lists: dict[int, tuple[NDArray[np.int32], Floats]] = {}

    def __len__(self) -> int:
        return len(self._lists)

    def add(self, counts: CountsDelta) -> None:
        bounds = zip(counts.first[:-1].tolist(), counts.first[1:].tolist(), strict=True)
        for row, (start, end) in zip(counts.row_R.tolist(), bounds, strict=True):
            self._lists[row] = counts.neighbour_P[start:end], counts.weight_P[start:end]

    def merged(self) -> CountsDelta:
        """Return the lists as one delta; there must be one at least."""
        rows = sorted(self._lists)
        neighbours, weights = zip(*(self._lists[row] for row in rows), strict=True)
        first = np.cumsum([0, *map(len, neighbours)])
        return CountsDelta(
            np.array(rows, dtype=np.int64),
            first.astype(np.int64),
            np.concatenate(neighbours),
            np.concatenate(weights),
        )


class ChangedRows(NamedTuple):
    """New rows of one table."""

    row_R: Ints  # ascending
    values_RW: Floats


class WeightsDelta(NamedTuple):
    """New weights of the online recommender."""

    dense: Mapping[str, Floats]  # whole tensors
    rows: Mapping[str, ChangedRows]  # of tables of codes and nodes


@dataclass(frozen=True, eq=False)
class Delta:
    """One step of a live release."""

    header: DeltaHeader
    counts: CountsDelta | None = None
    weights: WeightsDelta | None = None

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        tensors: dict[str, NDArray[Any]] = {}
        if self.counts is not None:
            tensors |= zip(_COUNTS, self.counts, strict=True)
        if self.weights is not None:
            tensors |= {f"dense:{name}": value for name, value in self.weights.dense.items()}
            for name, changed in self.weights.rows.items():
                tensors |= {f"row:{name}": changed.row_R, f"values:{name}": changed.values_RW}
        contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        return save(contiguous, {_HEADER: self.header.model_dump_json()})

    def write(self, file: Path) -> str:
        """Write the file durably and return its SHA-256."""
        data = self.encode()
        write_durably(file, data)
        return hashlib.sha256(data).hexdigest()


class ReadDelta(NamedTuple):
    """A delta and the SHA-256 of its file."""

    delta: Delta
    sha256: str


def read_delta(file: Path, *, base: str, number: int, parent: str) -> ReadDelta:
    """Read a delta that must be number `number` on `base`, after the delta `parent`.

    Raises InvalidRelease, which names the file, for any other place in the chain, a wrong dtype or
    shape, and a number that is not finite. `check_delta` compares it with the release.
    """
    try:
        data = file.read_bytes()
        tensors = load(data)
        header = _read_header(data)
        delta = Delta(header, _read_counts(tensors), _read_weights(tensors))
    except OSError as exc:
        raise InvalidRelease(f"{file}: cannot be read ({exc.strerror}), expected a delta") from exc
    except (SafetensorError, KeyError, ValueError, TypeError) as exc:
        raise InvalidRelease(f"{file}: not a delta ({_problem(exc)})") from exc
    for name, expected in (("base", base), ("number", number), ("parent", parent)):
        if (found := getattr(header, name)) != expected:
            raise InvalidRelease(f"{file}: {name} {found or 'none'}, expected {expected or 'none'}")
    return ReadDelta(delta, hashlib.sha256(data).hexdigest())


def check_delta(
    file: Path, delta: Delta, weights: Weights, *, num_items: int, num_neighbours: int
) -> None:
    """Raise InvalidRelease, which names `file`, for a delta that does not fit the release.

    Args:
        weights: of the release.
        num_items: rows of its catalog.
        num_neighbours: that its memory keeps of each item; 0 without a memory.
    """
    try:
        if delta.counts is not None:
            _check_lists(delta.counts, num_items, num_neighbours)
        if delta.weights is not None:
            _check_weights(delta.weights, weights)
    except ValueError as exc:
        raise InvalidRelease(f"{file}: {exc}") from exc


def between(old: Weights, new: Weights) -> WeightsDelta:
    """Return what changed from one set of weights to another, bit by bit.

    Raises ValueError if tensors or shapes differ: a grown model needs a new base.
    """
    dense, rows = {}, {}
    if old.keys() != new.keys():
        raise ValueError(f"tensors {sorted(old.keys() ^ new.keys())} in one model only")
    for name, value in new.items():
        before = old[name]
        if before.shape != value.shape or before.dtype != value.dtype:
            raise ValueError(
                f"{name}: {value.dtype} {value.shape}, was {before.dtype} {before.shape}"
            )
        is_changed = _bits(before) != _bits(value)
        if not is_changed.any():
            continue
        if _KNOWN.fullmatch(name):
            raise ValueError(f"{name}: other known nodes")
        if _TABLE.fullmatch(name):
            row_R = np.flatnonzero(is_changed.any(axis=1))
            rows[name] = ChangedRows(row_R, value[row_R])
        else:
            dense[name] = value
    return WeightsDelta(dense, rows)


def apply_weights(weights: Weights, delta: WeightsDelta) -> dict[str, NDArray[Any]]:
    """Return new weights. The arrays of `weights` stay as they are: a model may be using them."""
    made = dict(weights)
    made.update(delta.dense)
    for name, (row_R, values_RW) in delta.rows.items():
        made[name] = made[name].copy()
        made[name][row_R] = values_RW
    return made


def _bits(tensor: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(tensor).view(f"u{tensor.itemsize}")


def _read_header(data: bytes) -> DeltaHeader:
    end = 8 + int.from_bytes(data[:8], "little")  # the form of safetensors
    return DeltaHeader.model_validate_json(json.loads(data[8:end])["__metadata__"][_HEADER])


def _read_counts(tensors: dict[str, NDArray[Any]]) -> CountsDelta | None:
    """Take the tensors of the counts. Raises ValueError."""
    if not _COUNTS.keys() & tensors.keys():
        return None
    found = [tensors.pop(name) for name in _COUNTS]
    for (name, dtype), tensor in zip(_COUNTS.items(), found, strict=True):
        _check_tensor(name, tensor, dtype, 1)
    counts = CountsDelta(*found)
    _check_ascending("counts.row", counts.row_R)
    num_pairs = len(counts.neighbour_P)
    if len(counts.weight_P) != num_pairs or len(counts.first) != len(counts.row_R) + 1:
        raise ValueError("counts: lengths that do not belong together")
    if counts.first[0] != 0 or counts.first[-1] != num_pairs or (np.diff(counts.first) < 0).any():
        raise ValueError(f"counts.first: expected 0 to {num_pairs}, ascending")
    if not (counts.weight_P > 0).all():
        raise ValueError("counts.weight: expected numbers above 0")
    return counts


def _read_weights(tensors: dict[str, NDArray[Any]]) -> WeightsDelta | None:
    """Take the tensors of the weights: all that are left. Raises ValueError."""
    dense, rows = {}, {}
    for key in sorted(tensors):
        kind, _, name = key.partition(":")
        if kind == "dense" and not _TABLE.fullmatch(name):
            dense[name] = _check_tensor(key, tensors[key], np.float32)
        elif kind == "row" and _TABLE.fullmatch(name):
            row_R = _check_tensor(key, tensors[key], np.int64, 1)
            _check_ascending(key, row_R)
            values_RW = _check_tensor(f"values:{name}", tensors[f"values:{name}"], np.float32, 2)
            if len(values_RW) != len(row_R):
                raise ValueError(f"{key}: {len(row_R)} rows, {len(values_RW)} of values")
            rows[name] = ChangedRows(row_R, values_RW)
        elif kind != "values" or f"row:{name}" not in tensors:
            raise ValueError(f"tensor {key!r} is unknown")
    return WeightsDelta(dense, rows) if tensors else None


def _check_tensor(
    name: str, tensor: NDArray[Any], dtype: type, dimensions: int | None = None
) -> NDArray[Any]:
    if tensor.dtype != dtype or (dimensions is not None and tensor.ndim != dimensions):
        raise ValueError(f"{name}: {tensor.dtype} {tensor.shape}, expected {np.dtype(dtype)}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name}: expected finite numbers")
    return tensor


def _check_ascending(name: str, row_R: Ints) -> None:
    if len(row_R) and (row_R[0] < 0 or (np.diff(row_R) <= 0).any()):
        raise ValueError(f"{name}: expected distinct rows from 0 up, ascending")


def _check_lists(counts: CountsDelta, num_items: int, num_neighbours: int) -> None:
    if not num_neighbours:
        raise ValueError("counts for a release without a memory")
    for name, rows in (("row", counts.row_R), ("neighbour", counts.neighbour_P)):
        if ((rows < 0) | (rows >= num_items)).any():
            raise ValueError(f"counts.{name}: expected catalog rows 0..{num_items - 1}")
    if (np.diff(counts.first) > num_neighbours).any():
        raise ValueError(f"counts.first: expected at most {num_neighbours} neighbours an item")
    item_P = np.repeat(counts.row_R, np.diff(counts.first))
    pair_P = np.sort(item_P * num_items + counts.neighbour_P)  # np.unique takes 20 times as long
    if (np.diff(pair_P) == 0).any():
        raise ValueError("counts.neighbour: an item has a neighbour twice")


def _check_weights(delta: WeightsDelta, weights: Weights) -> None:
    for name, value in delta.dense.items():
        held = weights.get(name)
        if held is None or held.shape != value.shape or held.dtype != value.dtype:
            found = "no tensor" if held is None else f"{held.dtype} {held.shape}"
            raise ValueError(f"{name}: {value.dtype} {value.shape}, the release has {found}")
    for name, (row_R, values_RW) in delta.rows.items():
        if name not in weights or weights[name].shape[1:] != values_RW.shape[1:]:
            raise ValueError(f"{name}: rows of {values_RW.shape[1:]}, the release has others")
        # The last row of a table of nodes serves unknown nodes, and stays zero.
        end = len(weights[name]) - name.startswith("node_embeddings")
        if len(row_R) and row_R[-1] >= end:
            raise ValueError(f"{name}: row {row_R[-1]}, expected 0..{end - 1}")


def _problem(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        first = exc.errors(include_url=False, include_input=False)[0]
        return one_line(ValueError(f"header: {first['loc'][0]}: {first['msg']}"))
    return f"{type(exc).__name__}: {one_line(exc)}" if isinstance(exc, KeyError) else one_line(exc)
