"""Counted pairs and similar items of a release, and their file `neighbours.safetensors`.

The file holds the counts behind the weights, so that a learner can go on counting. Items are
catalog rows. Knows nothing of models or SIDs.
"""

# N = catalog rows, P = pairs, S = similar items of each row

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.errors import InvalidRelease, one_line
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts
from models.online.memory.similar_items import SimilarItems

_Tensors = dict[str, NDArray[Any]]

# Tensors of the file: dtype, and their shape with N, P and S by name.
_COUNTS: dict[str, tuple[type, str]] = {
    "first": (np.int64, "N+1"),
    "later": (np.int32, "P"),
    "count": (np.float32, "P"),
    "item_total": (np.float64, "N"),
    "later_total": (np.float64, "N"),
}
_SIMILAR: dict[str, tuple[type, str]] = {
    "similar": (np.int32, "N S"),
    "cosine": (np.float32, "N S"),
}


@dataclass(frozen=True, eq=False)
class Memory:
    """Counted pairs and similar items over the rows of one catalog."""

    counts: PairCounts
    similar: SimilarItems
    settings: MemorySettings

    @classmethod
    def counted(
        cls,
        histories: Sequence[Sequence[int]],
        similar: SimilarItems,
        settings: MemorySettings,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> "Memory":
        """Count the histories of users, given as catalog rows, over as many items as `similar`.

        weights: of the events of each history; None: all weigh 1.
        """
        counts = PairCounts.of_histories(histories, len(similar), settings, weights)
        return cls(counts, similar, settings)

    def neighbours(self) -> Neighbours:
        return Neighbours.of(self.counts, self.settings, self.similar)

    def write(self, file: Path) -> None:
        """Write the counts behind the neighbours, the totals of all counts, and similar items."""
        kept = self.counts.strongest(self.settings)
        tensors: _Tensors = {
            "first": np.searchsorted(kept.items(), np.arange(kept.num_items + 1)).astype(np.int64),
            "later": kept.later_items().astype(np.int32),
            "count": kept.count_P.astype(np.float32),
            "item_total": kept.item_total_N,
            "later_total": kept.later_total_N,
            "similar": self.similar.row_NS,
            "cosine": self.similar.cosine_NS,
        }
        save_file(tensors, file)

    @classmethod
    def read(cls, file: Path, settings: MemorySettings, num_items: int) -> "Memory":
        """Read what `write` wrote: kept pairs only, totals of all.

        A file without similar items has none. Raises InvalidRelease, which names the file and the
        tensor.
        """
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as exc:
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
        counts = _read_counts(file, tensors, num_items)
        return cls(counts, _read_similar(file, tensors, num_items), settings)


def _read_counts(file: Path, tensors: _Tensors, num_items: int) -> PairCounts:
    num_pairs = len(tensors.get("later", ()))
    _check_form(file, tensors, _COUNTS, {"N": num_items, "N+1": num_items + 1, "P": num_pairs})
    first, later_P = tensors["first"], tensors["later"]
    if first[0] != 0 or first[-1] != num_pairs or (np.diff(first) < 0).any():
        raise InvalidRelease(f"{file}: first: expected 0 to {num_pairs}, ascending")
    _check_rows(file, "later", later_P, num_items)
    for name in ("count", "item_total", "later_total"):
        if not (np.isfinite(tensors[name]) & (tensors[name] >= 0)).all():
            raise InvalidRelease(f"{file}: {name}: expected finite numbers from 0 up")
    item_P = np.repeat(np.arange(num_items), np.diff(first))
    pair_P = item_P * num_items + later_P.astype(np.int64)
    if (np.diff(pair_P) <= 0).any():
        row = int(item_P[1:][np.diff(pair_P) <= 0][0])
        raise InvalidRelease(f"{file}: later: row {row}, expected distinct rows, ascending")
    totals = tensors["item_total"], tensors["later_total"]
    return PairCounts(num_items, pair_P, tensors["count"].astype(np.float64), *totals)


def _read_similar(file: Path, tensors: _Tensors, num_items: int) -> SimilarItems:
    if not tensors.keys() & _SIMILAR.keys():
        return SimilarItems.none(num_items)
    num_similar = tensors["similar"].shape[-1] if "similar" in tensors else 0
    _check_form(file, tensors, _SIMILAR, {"N": num_items, "S": num_similar})
    row_NS, cosine_NS = tensors["similar"], tensors["cosine"]
    _check_rows(file, "similar", row_NS, num_items)
    if not ((cosine_NS >= 0) & (cosine_NS <= 1)).all():
        raise InvalidRelease(f"{file}: cosine: expected numbers from 0 to 1")
    return SimilarItems(row_NS, cosine_NS)


def _check_form(
    file: Path,
    tensors: _Tensors,
    form: dict[str, tuple[type, str]],
    sizes: dict[str, int],
) -> None:
    for name, (dtype, dimensions) in form.items():
        shape = tuple(sizes[dimension] for dimension in dimensions.split())
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            found = "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise InvalidRelease(f"{file}: {name}: {found}, expected {np.dtype(dtype)} {shape}")


def _check_rows(file: Path, name: str, rows: NDArray[Any], num_items: int) -> None:
    if ((rows < 0) | (rows >= num_items)).any():
        raise InvalidRelease(f"{file}: {name}: expected catalog rows 0..{num_items - 1}")
