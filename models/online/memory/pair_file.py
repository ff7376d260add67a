"""Counts and similar items of single pairs, read from `neighbours.safetensors` when asked for.

A request for recommendations needs the weights alone. An explanation says what they are made of.
Knows nothing of models or requests.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from models.errors import InvalidRelease, one_line


class Pair(NamedTuple):
    """Facts of a release on an item and another one near it."""

    times: float  # how often the second came near the first, a near one more; 0: not kept
    cosine: float  # of their texts; 0: the second is not among the most similar of the first


class PairFile:
    """One open file; keeps no array. Not thread-safe."""

    def __init__(self, file: Path) -> None:
        """Raises InvalidRelease for an unreadable file."""
        try:
            self._tensors = safe_open(file, "np")
        except (SafetensorError, OSError) as exc:
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
        self._has_similar = "similar" in self._tensors.keys()  # noqa: SIM118 (no mapping)

    def pair(self, item: int, other: int) -> Pair:
        """Return the facts of one pair of catalog rows."""
        return Pair(self._count(item, other), self._cosine(item, other))

    def _count(self, item: int, other: int) -> float:
        begin, end = self._tensors.get_slice("first")[item : item + 2].tolist()
        at = np.flatnonzero(self._tensors.get_slice("later")[begin:end] == other)
        return float(self._tensors.get_slice("count")[begin:end][at[0]]) if len(at) else 0.0

    def _cosine(self, item: int, other: int) -> float:
        if not self._has_similar:
            return 0.0
        row_S = self._tensors.get_slice("similar")[item : item + 1][0]
        cosine_S = self._tensors.get_slice("cosine")[item : item + 1][0]
        return float(cosine_S[row_S == other].max(initial=0.0))
