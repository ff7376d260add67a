"""Slices of the event log; each one is tested, learnt and published at once.

An event belongs to the slice of its time of arrival. The end of each slice is written to a journal
before the slice is learnt. So a learner that was killed cuts the same log in the same places.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from models.errors import InvalidDataset


class Cut(NamedTuple):
    """End of a slice."""

    last: str  # entry id of its last event; that of the slice before, if it has no events
    fed: int  # batches of the item feed that are applied before its events are learnt


class SliceJournal:
    """An append-only file of cuts, one JSON line each."""

    def __init__(self, file: Path) -> None:
        """Read the cuts so far; a line that a kill left unfinished is removed.

        Raises InvalidDataset for a file with another content.
        """
        self._file = file
        self.cuts: list[Cut] = []
        data = file.read_bytes() if file.exists() else b""
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            os.truncate(file, len(data) - len(rest))
        for number, line in enumerate(whole.splitlines()):
            try:
                self.cuts.append(Cut(**json.loads(line)))
            except (ValueError, TypeError) as exc:
                raise InvalidDataset(f"{file}:{number}: not a cut, expected last and fed") from exc

    def add(self, cut: Cut) -> None:
        """Append a cut durably."""
        with self._file.open("ab") as stream:
            stream.write(json.dumps(cut._asdict()).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.cuts.append(cut)
