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

import pyarrow.parquet as pq

from models.durable import PRIVATE, make_private, open_new, write_text
from models.errors import InvalidInput
from models.log.event_parts import SCHEMA, forget_users, read_part, to_table
from models.log.tombstones import Tombstones
from models.store.contract import Arrival, Logged, NightStore

_OVERLAP_MS = 5 * 60 * 1000
_USERS_A_READ = 500


class Drained(NamedTuple):
    """Counts of one drain."""

    users: int  # with a history
    events: int  # read, including those read by the drain before


async def drain(store: NightStore, out_dir: Path) -> Drained:
    """Append the events since the last drain. Raises StoreUnavailable or OSError."""
    folder = out_dir / "archive"
    make_private(folder)
    now_ms, since_ms = await store.clock_ms(), max(drained_to_ms(out_dir) - _OVERLAP_MS, 0)
    user_ids = await store.user_ids()
    draft = folder / "drain.new"
    num_events = 0
    with open_new(draft, PRIVATE) as stream:
        with pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
            for start in range(0, len(user_ids), _USERS_A_READ):
                some = user_ids[start : start + _USERS_A_READ]
                rows = _to_rows(await store.read_arrivals(some, since_ms))
                if rows:
                    writer.write_table(to_table(rows))
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
        for entry, user_id, event in read_part(part):
            arrival = Arrival(entry, event)
            if arrival.arrived_ms >= since_ms and not tombstones.hides(user_id, arrival.arrived_ms):
                yield user_id, arrival


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
    return sum(forget_users(part, lambda each: each == user_id) for part in _parts(out_dir))


def _parts(out_dir: Path) -> Sequence[Path]:
    return sorted((out_dir / "archive").glob("part-*.parquet"))


def _moment(part: Path) -> int:
    digits = part.stem.removeprefix("part-")
    return int(digits) if digits.isdecimal() else 0


def _to_rows(arrivals: dict[str, list[Arrival]]) -> list[Logged]:
    return [
        Logged(arrival.entry, user_id, arrival.event)
        for user_id, found in arrivals.items()
        for arrival in found
    ]
