"""Parts of an event archive: Parquet files of events with their users and arrivals.

The archive of the night and the log of the learner have this form. A part appears complete or not
at all. Knows nothing of the names of parts or of their order.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.durable import PRIVATE, write_durably
from models.errors import InvalidInput
from models.store.contract import Logged
from models.store.events import Event

ROWS_A_GROUP = 64 * 1024

SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "entry": pa.string(),  # id in the stream: when it arrived
        "event_id": pa.string(),
        "item_id": pa.string(),
        "timestamp": pa.int64(),
        "type": pa.string(),  # null for "", and absent in parts of older versions
        "value": pa.float64(),  # the same
    }
)


def to_table(events: Sequence[Logged]) -> "pa.Table":
    columns = {
        "user_id": [each.user_id for each in events],
        "entry": [each.entry for each in events],
        "event_id": [each.event.event_id for each in events],
        "item_id": [each.event.item_id for each in events],
        "timestamp": [each.event.timestamp for each in events],
        "type": [each.event.type or None for each in events],
        "value": [each.event.value for each in events],
    }
    return pa.table(columns, schema=SCHEMA)


def read_table(part: Path, *, columns: Sequence[str] | None = None) -> "pa.Table":
    """Read a part; columns that it lacks are null. Raises InvalidInput for a damaged one."""
    try:
        return pq.read_table(part, schema=SCHEMA, columns=columns)
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(f"{part}: not a readable part of events ({type(exc).__name__})") from exc


def read_part(part: Path) -> Iterator[Logged]:
    """Yield the events of a part in its order. Raises InvalidInput for a damaged one."""
    yield from events_of(read_table(part))


def events_of(table: "pa.Table") -> Iterator[Logged]:
    for batch in table.to_batches(max_chunksize=ROWS_A_GROUP):
        columns = [column.to_pylist() for column in batch.columns]
        for user_id, entry, event_id, item_id, timestamp, kind, value in zip(*columns, strict=True):
            yield Logged(entry, user_id, Event(item_id, timestamp, event_id, kind or "", value))


def write_table(part: Path, table: "pa.Table") -> None:
    """Write a part durably. Raises OSError."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROWS_A_GROUP)
    write_durably(part, sink.getvalue(), mode=PRIVATE)


def forget_users(part: Path, is_forgotten: Callable[[str], bool]) -> int:
    """Rewrite a part without some users, if it holds any; return the number of removed events.

    Of a part without them the column of users alone is read.
    """
    users = read_table(part, columns=["user_id"])["user_id"].unique().to_pylist()
    forgotten = pa.array([user_id for user_id in users if is_forgotten(user_id)], pa.string())
    if not len(forgotten):
        return 0
    table = read_table(part)
    kept = table.filter(pc.invert(pc.is_in(table["user_id"], forgotten)))
    write_table(part, kept)
    return int(table.num_rows - kept.num_rows)
