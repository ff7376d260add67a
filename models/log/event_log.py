"""The learner's copy of the event log on disk, in order of arrival.

    FOLDER/<milliseconds>-<number>.parquet   a part, named by the entry id of its last event

Every append makes a part. Small parts are merged, so that their number stays low. A crash in
between leaves events in two parts, of which a reader yields each entry once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.durable import make_private
from models.errors import InvalidInput
from models.log.event_parts import events_of, forget_users, read_table, to_table, write_table
from models.log.tombstones import Tombstones
from models.store.contract import BEGINNING, Logged, order_of
from models.store.records import hash_user

_SEALED_ROWS = 100_000  # a part of so many events is never merged again


class EventLog:
    """A folder of parts with one writer; readers may look at any time."""

    def __init__(self, folder: Path, *, max_loose: int = 64) -> None:
        """max_loose: appends after which the small parts are merged."""
        self._folder = folder
        self._max_loose = max_loose
        self._num_appended = 0  # since the parts were merged

    @property
    def end(self) -> str:
        """Entry id of the last event, also if that was forgotten since; BEGINNING without one."""
        parts = self._parts()
        return _entry_of(parts[-1]) if parts else BEGINNING

    def append(self, events: Sequence[Logged]) -> None:
        """Write events as one part; entries up to `end` are there already and are left out.

        Raises OSError, and then nothing was appended.
        """
        end = order_of(self.end)
        newer = [each for each in events if order_of(each.entry) > end]
        if not newer:
            return
        make_private(self._folder)
        write_table(self._folder / _name(newer[-1].entry), to_table(newer))
        self._num_appended += 1
        if self._num_appended == self._max_loose:
            self._merge()
            self._num_appended = 0

    def read(
        self, after: str = BEGINNING, *, tombstones: Tombstones | None = None
    ) -> Iterator[Logged]:
        """Yield the events behind an entry in order, each entry once, without erased users.

        Raises InvalidInput for a damaged part.
        """
        last = order_of(after)
        while (part := self._part_behind(last)) is not None:
            try:
                table = read_table(part)
            except InvalidInput:
                if part.exists():
                    raise
                continue  # merged into a later part in between
            for logged in events_of(table):
                if (place := order_of(logged.entry)) <= last:
                    continue
                last = place
                if tombstones is None or not tombstones.hides(logged.user_id, logged.arrived_ms):
                    yield logged
            last = order_of(_entry_of(part))

    def forget(self, users: frozenset[int]) -> int:
        """Remove the events of users, given by `hash_user`; return the number of removed events."""
        return sum(
            forget_users(part, lambda user_id: hash_user(user_id) in users)
            for part in self._parts()
        )

    def _merge(self) -> None:
        """Merge the parts behind the last sealed one into one, named as the last of them."""
        loose: list[Path] = []
        for part in self._parts()[::-1]:
            if pq.read_metadata(part).num_rows >= _SEALED_ROWS:
                break
            loose.insert(0, part)
        if len(loose) < 2:
            return
        tables = [read_table(part) for part in loose]
        write_table(loose[-1], pa.concat_tables(tables))
        for part in loose[:-1]:
            part.unlink()

    def _part_behind(self, last: tuple[int, int]) -> Path | None:
        """Return the first part with an event behind `last`."""
        return next((part for part in self._parts() if order_of(_entry_of(part)) > last), None)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*-*.parquet"))


def _name(entry: str) -> str:
    """Return the name of a part; names sort as the entry ids do."""
    milliseconds, number = order_of(entry)
    return f"{milliseconds:020d}-{number:020d}.parquet"


def _entry_of(part: Path) -> str:
    milliseconds, _, number = part.stem.partition("-")
    return f"{int(milliseconds)}-{int(number)}"
