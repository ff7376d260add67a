"""The event archive: a copy of the event streams on disk, from which they can be restored.

    OUT/archive/part-<drained to, unix ms>.parquet   events in order of draining
    OUT/archive/imports.json                         data sets that were imported completely

Drains overlap by five minutes, since clocks differ and a replica may have taken over. An event that
is archived twice counts once, by its id. A file appears complete or not at all. Knows nothing of
generations.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import InvalidInput
from models.store.contract import Arrival, NightStore
from models.store.events import Event
from offline.disk.erased import Tombstones
from offline.disk.shards import write_text

_OVERLAP_MS = 5 * 60 * 1000
_USERS_A_READ = 500
_ROWS_A_GROUP = 64 * 1024

_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "entry": pa.string(),  # id in the stream: when it arrived
        "event_id": pa.string(),
        "item_id": pa.string(),
        "timestamp": pa.int64(),
    }
)


class Drained(NamedTuple):
    """Counts of one drain."""

    users: int  # with a history
    events: int  # read, including those read by the drain before


async def drain(store: NightStore, out_dir: Path) -> Drained:
    """Append the events since the last drain. Raises StoreUnavailable or OSError."""
    folder = out_dir / "archive"
    folder.mkdir(parents=True, exist_ok=True)
    now_ms, since_ms = await store.clock_ms(), max(drained_to_ms(out_dir) - _OVERLAP_MS, 0)
    user_ids = await store.user_ids()
    draft = folder / "drain.new"
    num_events = 0
    with draft.open("wb") as stream:
        with pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
            for start in range(0, len(user_ids), _USERS_A_READ):
                some = user_ids[start : start + _USERS_A_READ]
                rows = _to_rows(await store.read_arrivals(some, since_ms))
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                    num_events += len(rows)
        stream.flush()
        os.fsync(stream.fileno())
    if num_events:
        draft.replace(folder / f"part-{now_ms:015d}.parquet")
    else:
        draft.unlink()
    write_text(folder / "imports.json", json.dumps(await store.imports(), indent=1) + "\n")
    return Drained(len(user_ids), num_events)


def drained_to_ms(out_dir: Path) -> int:
    """Return the time of the last drain on the store's clock (unix ms); 0 before the first."""
    return max((_moment(part) for part in _parts(out_dir)), default=0)


def read_archive(out_dir: Path, *, since_ms: int = 0) -> Iterator[tuple[str, Arrival]]:
    """Yield (user id, arrival) in order of draining, without erased events.

    An event may come twice. Raises InvalidInput for a damaged part.
    """
    tombstones = Tombstones.load(out_dir)
    for part in _parts(out_dir):
        if _moment(part) < since_ms:
            continue
        for row in _read_part(part):
            arrival = _to_arrival(row)
            if arrival.arrived_ms >= since_ms and not tombstones.hides(
                row["user_id"], arrival.arrived_ms
            ):
                yield row["user_id"], arrival


def read_imports(out_dir: Path) -> dict[str, str]:
    """Return digest -> note of each data set that was imported completely."""
    file = out_dir / "archive" / "imports.json"
    try:
        found = json.loads(file.read_text()) if file.is_file() else {}
        return {str(digest): str(note) for digest, note in found.items()}
    except (ValueError, AttributeError) as exc:
        raise InvalidInput(f"{file}: not a list of imports") from exc


def forget_user(out_dir: Path, user_id: str) -> int:
    """Rewrite the parts that hold this user without them; return the number of removed events."""
    num_events = 0
    for part in _parts(out_dir):
        table = _read_table(part)
        is_kept = pc.not_equal(table["user_id"], user_id)
        kept = table.filter(is_kept)
        if kept.num_rows == table.num_rows:
            continue
        num_events += table.num_rows - kept.num_rows
        draft = part.with_suffix(".new")
        with draft.open("wb") as stream:
            pq.write_table(kept, stream, compression="zstd", row_group_size=_ROWS_A_GROUP)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(part)
    return num_events


def _parts(out_dir: Path) -> Sequence[Path]:
    return sorted((out_dir / "archive").glob("part-*.parquet"))


def _moment(part: Path) -> int:
    digits = part.stem.removeprefix("part-")
    return int(digits) if digits.isdecimal() else 0


def _read_table(part: Path) -> "pa.Table":
    try:
        return pq.read_table(part, schema=_SCHEMA)
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(
            f"{part}: not a readable part of the archive ({type(exc).__name__})"
        ) from exc


def _read_part(part: Path) -> Iterator[dict[str, str]]:
    for batch in _read_table(part).to_batches(max_chunksize=_ROWS_A_GROUP):
        yield from batch.to_pylist()


def _to_rows(arrivals: dict[str, list[Arrival]]) -> list[dict[str, object]]:
    return [
        {
            "user_id": user_id,
            "entry": arrival.entry,
            "event_id": arrival.event.event_id,
            "item_id": arrival.event.item_id,
            "timestamp": arrival.event.timestamp,
        }
        for user_id, found in arrivals.items()
        for arrival in found
    ]


def _to_arrival(row: dict[str, str]) -> Arrival:
    event = Event(row["item_id"], int(row["timestamp"]), row["event_id"])
    return Arrival(row["entry"], event)
