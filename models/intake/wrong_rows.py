"""Wrong rows: the first one is an error with file and row, or all are left out and counted."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidDataset


class Part(Protocol):
    """Rows of one file."""

    num_skipped: int  # rows that the reader left out

    def line_of(self, row: int) -> int: ...


class Place(NamedTuple):
    """File of some rows."""

    name: str
    part: Part
    num_rows: int


class WrongRows:
    """Wrong rows of all files of one role, counted over the files in their order."""

    def __init__(self, places: Sequence[Place], *, skips: bool) -> None:
        self._places = places
        self._skips = skips
        self._ends = np.cumsum([place.num_rows for place in places]).tolist()
        self.mask = np.zeros(self._ends[-1] if places else 0, bool)
        self.examples: list[str] = []

    def place_of(self, row: int) -> str:
        """Return file and line of a row."""
        at = bisect_right(self._ends, row)
        place = self._places[at]
        first = self._ends[at - 1] if at else 0
        return f"{place.name}:{place.part.line_of(row - first)}"

    def check(self, bad: NDArray[np.bool_], say: Callable[[int], str], *, first: int = 0) -> None:
        """Raise InvalidDataset for the first bad row, or note all of them.

        Args:
            bad: a row each.
            say: the problem of a row, counted as in `bad`.
            first: the row of all files at which `bad` begins.
        """
        rows = np.flatnonzero(bad)
        if not len(rows):
            return
        text = f"{self.place_of(first + int(rows[0]))}: {say(int(rows[0]))}"
        if not self._skips:
            more = f" ({len(rows) - 1:,} more such rows)" if len(rows) > 1 else ""
            raise InvalidDataset(f"{text}{more}")
        self.mask[first + rows] = True
        self.examples.append(text)
