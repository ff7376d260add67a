"""Deltas over the toy world: random new weights and neighbour lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.online.memory.neighbours import Neighbours
from models.release.delta import CountsDelta, Delta, DeltaHeader, WeightsDelta, between
from models.release.live import LiveFolder, LiveRelease
from models.store.model_pointer import LiveVersion, ModelPointer


def header(version: LiveVersion, **changes: object) -> DeltaHeader:
    """Return the header of the delta after a version."""
    values: dict[str, object] = {
        "base": version.base,
        "number": version.deltas + 1,
        "parent": version.sha256,
        "watermark": f"{version.deltas + 1}-0",
        "made_ms": 1_700_000_000_000,
    }
    return DeltaHeader.model_validate(values | changes)


def pointer_to(version: LiveVersion, *, epoch: int) -> ModelPointer:
    return ModelPointer(
        epoch=epoch,
        base=version.base,
        deltas=version.deltas,
        sha256=version.sha256,
        written_ms=1_700_000_000_000,
    )


def other_weights(
    weights: Mapping[str, NDArray[Any]], *, seed: int = 0, num_rows: int = 5
) -> dict[str, NDArray[Any]]:
    """Change all dense tensors, and a few rows of every table."""
    rng = np.random.default_rng(seed)
    made = {name: value.copy() for name, value in weights.items()}
    for name, value in made.items():
        if "known" in name:
            continue
        row = slice(None)
        if "embeddings" in name:
            row = rng.choice(len(value) - 1, num_rows, replace=False)  # type: ignore[assignment]
        value[row] += rng.normal(scale=0.1, size=value[row].shape).astype(np.float32)
    return made


def weights_delta(live: LiveRelease, *, seed: int = 0) -> WeightsDelta:
    return between(live.weights, other_weights(live.weights, seed=seed))


def counts_delta(neighbours: Neighbours, *, seed: int = 0, num_rows: int = 7) -> CountsDelta:
    """Return new lists of a few rows, of 0 to 9 neighbours."""
    rng = np.random.default_rng(seed)
    num_items = len(neighbours)
    row_R = np.sort(rng.choice(num_items, num_rows, replace=False)).astype(np.int64)
    size_R = rng.integers(0, 10, num_rows)
    lists = [rng.choice(num_items, size, replace=False) for size in size_R]
    return CountsDelta(
        row_R,
        np.append(0, np.cumsum(size_R)).astype(np.int64),
        np.concatenate(lists).astype(np.int32),
        rng.uniform(0.01, 1, size_R.sum()).astype(np.float32),
    )


def add_toy_deltas(
    folder: LiveFolder, live: LiveRelease, kinds: str, *, seed: int = 0
) -> LiveVersion:
    """Add one delta for each letter: `c` of counts, `w` of weights, `b` of both."""
    version = live.version
    assert live.neighbours is not None
    for at, kind in enumerate(kinds):
        counts = counts_delta(live.neighbours, seed=seed + at) if kind in "cb" else None
        weights = weights_delta(live, seed=seed + at) if kind in "wb" else None
        version = folder.add_delta(Delta(header(version), counts, weights))
    return version
