"""Codebooks of a SID space: the centroids by which a new item gets codes.

A code without a centroid is a row of NaN: no item has it, and none will get it. Knows nothing of
texts or catalogs.
"""

# V = codes of a level, E = vector width, N = items, L = levels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.catalog.sid import SidSpace
from models.errors import InvalidRelease, one_line

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Codebooks:
    """Centroids of residual k-means, level by level."""

    levels: tuple[FloatArray, ...]  # (V, E) each; V may be below the size of the level

    @property
    def width(self) -> int:
        """Return the width of the vectors that they quantize."""
        return int(self.levels[0].shape[1])

    @classmethod
    def of_items(
        cls, vectors_NE: FloatArray, sids_NL: NDArray[np.integer], sizes: Sequence[int]
    ) -> "Codebooks":
        """Return the mean residual of the items with each code.

        A centroid of k-means is the mean of its items, so this finds the codebooks again from the
        SIDs and the vectors that made them.
        """
        residual_NE = vectors_NE.astype(np.float64)
        levels = []
        for level, size in enumerate(sizes):
            code_N = sids_NL[:, level]
            sum_VE = np.zeros((size, vectors_NE.shape[1]))
            np.add.at(sum_VE, code_N, residual_NE)
            num_V = np.bincount(code_N, minlength=size)
            mean_VE = np.full_like(sum_VE, np.nan)
            np.divide(sum_VE, num_V[:, None], out=mean_VE, where=num_V[:, None] > 0)
            levels.append(mean_VE.astype(np.float32))
            residual_NE -= mean_VE[code_N]
        return cls(tuple(levels))

    def sums(self, sids_NL: NDArray[np.integer]) -> FloatArray:
        """Return the sum of the centroids of each SID, (N, E): about the vector of its item."""
        total = np.zeros((len(sids_NL), self.width), dtype=np.float32)
        for level, book in enumerate(self.levels):
            total += np.nan_to_num(book)[sids_NL[:, level]]
        return total

    def write(self, file: Path) -> None:
        save_file({f"codebook_{level}": book for level, book in enumerate(self.levels)}, file)

    @classmethod
    def read(cls, file: Path, space: SidSpace) -> "Codebooks":
        """Read what `write` wrote. Raises InvalidRelease, which names the file and the tensor."""
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as exc:
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
        names = [f"codebook_{level}" for level in range(space.levels)]
        if sorted(tensors) != names:
            raise InvalidRelease(f"{file}: tensors {sorted(tensors)}, expected {names}")
        width = tensors[names[0]].shape[-1]
        for name, size in zip(names, space.sizes, strict=True):
            _check(file, name, tensors[name], size, width)
        return cls(tuple(tensors[name] for name in names))


def _check(file: Path, name: str, book: FloatArray, size: int, width: int) -> None:
    fits = book.ndim == 2 and 1 <= book.shape[0] <= size and book.shape[1] == width
    if book.dtype != np.float32 or not fits:
        raise InvalidRelease(
            f"{file}: {name}: {book.dtype} {book.shape}, expected float32 (1..{size}, {width})"
        )
    is_none_V = np.isnan(book).all(axis=1)
    if is_none_V.all() or not np.isfinite(book[~is_none_V]).all():
        raise InvalidRelease(f"{file}: {name}: expected finite centroids, or rows wholly NaN")
