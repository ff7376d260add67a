"""Rows of a generation that the tombstones of erased users do not hide.

    OUT/<generation>/added/   rows added to a finished generation; the last one of a user counts

Shards are not rewritten. A tombstone hides the user's rows in every shard; the bytes go when the
generation is collected.
"""

from collections.abc import Iterator
from pathlib import Path

from models.log.tombstones import Tombstones
from offline.disk.shards import ShardRow, read_rows

ADDED = "added"


def visible_rows(folder: Path) -> Iterator[ShardRow]:
    """Yield one row per user of a generation, without erased users. Raises InvalidInput."""
    tombstones = Tombstones.load(folder.parent)
    added = {row.thoughts.user_id: row for row in read_rows(folder / ADDED)}
    for row in read_rows(folder):
        if row.thoughts.user_id not in added and not _is_hidden(row, tombstones):
            yield row
    for row in added.values():
        if not _is_hidden(row, tombstones):
            yield row


def _is_hidden(row: ShardRow, tombstones: Tombstones) -> bool:
    return tombstones.hides(row.thoughts.user_id, row.created_at * 1000)
