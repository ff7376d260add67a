"""The neighbours of each item with their weights, and the evidence that a history gives by them.

`neighbours.safetensors` of a release holds the counts behind the weights, so that a learner can go
on counting. Items are catalog rows. Knows nothing of models or SIDs.
"""

# N = catalog rows, P = pairs, A = recent items (newest first), R = asked or found rows

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.catalog.trie import expand_ranges
from models.errors import InvalidRelease, one_line
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.pair_counts import Counts, Ints, PairCounts, sum_at

NUM_REASONS = 3  # most items that explain another one

_FORM = {  # tensors of the file: dtype, and the size that the number of items decides
    "first": (np.int64, 1),
    "later": (np.int32, None),
    "count": (np.float32, None),
    "item_total": (np.float64, 0),
    "later_total": (np.float64, 0),
}


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The neighbours of each item, strongest first, one item after the other."""

    settings: MemorySettings
    first: Ints  # of each item its first place in the arrays below, and at the end their length
    neighbour_P: NDArray[np.int32]  # catalog rows
    weight_P: NDArray[np.float32]  # all above 0

    @classmethod
    def of(cls, counts: PairCounts, settings: MemorySettings) -> "Neighbours":
        """Keep the neighbours with the largest weights."""
        counts = counts.strongest(settings)
        weight_P = counts.weights(settings)
        item_P = counts.items()
        order = np.lexsort((counts.later_items(), -weight_P, item_P))
        return cls(
            settings,
            np.searchsorted(item_P, np.arange(counts.num_items + 1)).astype(np.int64),
            counts.later_items()[order].astype(np.int32),
            weight_P[order].astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def num_bytes(self) -> int:
        return self.first.nbytes + self.neighbour_P.nbytes + self.weight_P.nbytes

    def evidence(self, recent: NDArray[np.integer]) -> tuple[Ints, Counts]:
        """Return the items that a history gives evidence for, ascending, and how much.

        Args:
            recent: catalog rows of the history's newest items, newest first.
        """
        _, row_P, share_P = self._shares(recent)
        row_R, place_P = np.unique(row_P, return_inverse=True)
        return row_R.astype(np.int64), sum_at(place_P, share_P, len(row_R))

    def reasons(self, recent: NDArray[np.integer], rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Return for each of `rows` the items of the history that gave it most evidence.

        At most NUM_REASONS distinct items, most first, ties by the newest; empty without evidence.
        """
        age_P, row_P, share_P = self._shares(recent)
        found = []
        for row in rows:
            given: dict[int, float] = {}
            for at in np.flatnonzero(row_P == row).tolist():
                item = int(recent[age_P[at]])
                given[item] = given.get(item, 0.0) + float(share_P[at])
            ranked = sorted(given, key=lambda item: -given[item])  # stable: the newest stay first
            found.append(tuple(ranked[:NUM_REASONS]))
        return found

    def _shares(self, recent: NDArray[np.integer]) -> tuple[Ints, NDArray[np.int32], Counts]:
        """Return age, row and evidence of every neighbour of the newest items: (P,) each."""
        recent_A = recent[: self.settings.recent].astype(np.int64)
        age_P, at_P = expand_ranges(self.first, recent_A)
        share_A = self.settings.decay ** np.arange(len(recent_A), dtype=np.float64)
        return age_P, self.neighbour_P[at_P], share_A[age_P] * self.weight_P[at_P]


def write_neighbours(file: Path, counts: PairCounts, settings: MemorySettings) -> None:
    """Write the counts behind the neighbours, and the totals of all counts."""
    kept = counts.strongest(settings)
    tensors: dict[str, NDArray[Any]] = {
        "first": np.searchsorted(kept.items(), np.arange(kept.num_items + 1)).astype(np.int64),
        "later": kept.later_items().astype(np.int32),
        "count": kept.count_P.astype(np.float32),
        "item_total": kept.item_total_N,
        "later_total": kept.later_total_N,
    }
    save_file(tensors, file)


def read_counts(file: Path, num_items: int) -> PairCounts:
    """Read a file of `write_neighbours`: kept pairs only, totals of all.

    Raises InvalidRelease, which names the file and the tensor.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as exc:
        raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
    _check_form(file, tensors, num_items)
    first, later_P = tensors["first"], tensors["later"].astype(np.int64)
    item_P = np.repeat(np.arange(num_items), np.diff(first))
    pair_P = item_P * num_items + later_P
    if (np.diff(pair_P) <= 0).any():
        row = int(item_P[1:][np.diff(pair_P) <= 0][0])
        raise InvalidRelease(f"{file}: later: row {row}, expected distinct rows, ascending")
    totals = tensors["item_total"], tensors["later_total"]
    return PairCounts(num_items, pair_P, tensors["count"].astype(np.float64), *totals)


def _check_form(file: Path, tensors: dict[str, NDArray[Any]], num_items: int) -> None:
    num_pairs = len(tensors.get("later", ()))
    for name, (dtype, more) in _FORM.items():
        shape = (num_pairs if more is None else num_items + more,)
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            form = "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise InvalidRelease(f"{file}: {name}: {form}, expected {np.dtype(dtype)} {shape}")
    first, later_P = tensors["first"], tensors["later"]
    if first[0] != 0 or first[-1] != num_pairs or (np.diff(first) < 0).any():
        raise InvalidRelease(f"{file}: first: expected 0 to {num_pairs}, ascending")
    if num_pairs and ((later_P < 0) | (later_P >= num_items)).any():
        raise InvalidRelease(f"{file}: later: expected catalog rows 0..{num_items - 1}")
    for name in ("count", "item_total", "later_total"):
        if not (np.isfinite(tensors[name]) & (tensors[name] >= 0)).all():
            raise InvalidRelease(f"{file}: {name}: expected finite numbers from 0 up")
