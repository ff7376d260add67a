"""Intake of data as people have them: files in, two tables and a summary out.

The door through which training, bench, import and service read. Knows nothing of SIDs or splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import InvalidDataset
from models.intake.column_names import TEXT_FIELDS
from models.intake.data_files import find_data_files
from models.intake.event_order import (
    Codes,
    count_from_zero,
    fill_times,
    find_double_places,
    find_repeated_rows,
    order_by_time,
)
from models.intake.event_table import leave_out, read_events
from models.intake.file_groups import FileGroups, read_groups
from models.intake.item_table import Items, add_items_of_events, read_items
from models.intake.notes import Notes
from models.intake.reading_options import ReadingOptions
from models.intake.summary import Summary
from models.intake.times import MICROS

_BY_ROWS = "that of the rows"


@dataclass(frozen=True)
class Intake:
    """Data as two tables."""

    interactions: "pa.Table"  # user_id, item_id, pos; timestamp, event_id, type, value if known
    items: "pa.Table"  # item_id, and the texts that there are
    summary: Summary


def read_data(paths: Sequence[Path], options: ReadingOptions | None = None) -> Intake:
    """Read files and folders.

    Raises:
        InvalidDataset: no events, a wrong row, or with `is_strict` a row that would be dropped or
            a value that would be guessed. The text names file, row and expectation.
    """
    options = options or ReadingOptions()
    files = find_data_files(paths, options)
    notes = Notes()
    groups = read_groups(files.interactions, skips_wrong=options.skips_wrong)
    events = read_events(groups, options, notes)
    items = read_items(read_groups(files.items, skips_wrong=options.skips_wrong), notes)
    events = _drop_hidden(events, items, notes)
    events = _drop_repeated(events, groups, notes)
    events, order = _in_order(events, groups, notes)
    table = add_items_of_events(items, events, notes)
    if options.is_strict:
        notes.refuse_any()
    interactions = _canonical(events)
    return Intake(interactions, table, _summary(interactions, table, notes, files.not_read, order))


def _codes(events: "pa.Table", field: str) -> Codes:
    """Return a column of ids as numbers."""
    codes: Codes = events[field].combine_chunks().indices.to_numpy().astype(np.int64)
    return codes


def _pairs(events: "pa.Table") -> Codes:
    """Return user and item of each event as one number."""
    num_items = max(len(events["item_id"].combine_chunks().dictionary), 1)
    return _codes(events, "user_id") * num_items + _codes(events, "item_id")


def _numbers(events: "pa.Table", field: str) -> Codes:
    numbers: Codes = pc.fill_null(events[field], 0).to_numpy()
    return numbers


def _drop_hidden(events: "pa.Table", items: Items, notes: Notes) -> "pa.Table":
    """Leave out the events of hidden items."""
    if not len(items.hidden):
        return events
    ids = events["item_id"].combine_chunks()
    is_hidden = pc.is_in(ids.dictionary, items.hidden).to_numpy(zero_copy_only=False)
    of_hidden = is_hidden[ids.indices.to_numpy()]
    if of_hidden.all():
        raise InvalidDataset("no events but those of hidden items, expected some of other items")
    notes.drop(int(of_hidden.sum()), "events of hidden items")
    return leave_out(events, of_hidden)


def _drop_repeated(events: "pa.Table", groups: FileGroups, notes: Notes) -> "pa.Table":
    """Leave out events that stand again with all values equal.

    Without times and positions equal rows are events of their own, one after another.
    """
    field = next((name for name in ("pos", "micros") if name in events.column_names), None)
    if field is None:
        return events
    others = [
        events[name].combine_chunks()
        for name in ("micros", "event_id", "type", "value")
        if name in events.column_names and name != field
    ]
    rows = find_repeated_rows(_pairs(events), _numbers(events, field), others)
    origin = events["row"].to_numpy()
    places = (groups.wrong.place_of(int(origin[row])) for row in rows)
    notes.drop(len(rows), "events that stand twice; one is kept", places)
    repeated = np.zeros(events.num_rows, bool)
    repeated[rows] = True
    return leave_out(events, repeated)


def _in_order(events: "pa.Table", groups: FileGroups, notes: Notes) -> tuple["pa.Table", str]:
    """Give every event its position; return also a phrase for the summary."""
    users = _codes(events, "user_id")
    if "pos" in events.column_names:
        events = _check_positions(events, users, groups, notes)
        return _with_all_times(events, _codes(events, "user_id"), notes), "that of pos"
    has_times = "micros" in events.column_names
    if not has_times:
        notes.guess("no time and no pos: the order of events is that of the rows")
    rows = order_by_time(users, _numbers(events, "micros") if has_times else None)
    events = events.take(pa.array(rows))
    positions = pa.array(count_from_zero(users[rows]))
    order = "by time, events of one time as the rows stand" if has_times else _BY_ROWS
    return events.append_column("pos", positions), order


def _check_positions(
    events: "pa.Table", users: Codes, groups: FileGroups, notes: Notes
) -> "pa.Table":
    """Refuse two events of a user with one position, or leave out the later one."""
    earlier = find_double_places(users, _numbers(events, "pos"))
    origin = events["row"].to_numpy()
    bad = np.zeros(len(groups.wrong.mask), bool)
    bad[origin[earlier >= 0]] = True
    if not bad.any():
        return events
    place = dict(zip(origin[earlier >= 0].tolist(), np.flatnonzero(earlier >= 0), strict=True))

    def say(row: int) -> str:
        here = int(place[row])
        user, pos = events["user_id"][here].as_py(), events["pos"][here].as_py()
        there = groups.wrong.place_of(int(origin[earlier[here]]))
        return f"user {user!r} has pos {pos} already in {there}, expected each position once"

    groups.wrong.check(bad, say)
    notes.drop(int(bad.sum()), "events with a position again", groups.wrong.examples[-1:])
    return leave_out(events, earlier >= 0)


def _with_all_times(events: "pa.Table", users: Codes, notes: Notes) -> "pa.Table":
    """Fill missing times, if there are any times at all."""
    if "micros" not in events.column_names:
        return events
    missing: NDArray[np.bool_] = events["micros"].is_null().to_numpy()
    if missing.all():
        return events.drop_columns(["micros"])
    if missing.any():
        text = "missing times are those of the user's event before"
        notes.guess(text, int(missing.sum()))
        filled = fill_times(users, _numbers(events, "pos"), _numbers(events, "micros"), missing)
        at = events.column_names.index("micros")
        events = events.set_column(at, "micros", pa.array(filled))
    return events


def _canonical(events: "pa.Table") -> "pa.Table":
    """Return the columns of `interactions.parquet`; a column of nulls alone is left out."""
    columns = {name: events[name] for name in ("user_id", "item_id", "pos")}
    if "micros" in events.column_names:
        columns["timestamp"] = pa.array(_numbers(events, "micros") // MICROS)
    for name in ("event_id", "type", "value"):
        if name in events.column_names and events[name].null_count < events.num_rows:
            columns[name] = events[name]
    return pa.table(columns)


def _summary(
    interactions: "pa.Table",
    items: "pa.Table",
    notes: Notes,
    not_read: tuple[str, ...],
    order: str,
) -> Summary:
    has_times = "timestamp" in interactions.column_names
    span = pc.min_max(interactions["timestamp"]).as_py() if has_times else {}
    num_users = int(np.count_nonzero(np.bincount(_codes(interactions, "user_id"))))
    return Summary(
        read=tuple(notes.read),
        not_read=not_read,
        order=order,
        users=num_users,
        items=items.num_rows,
        items_with_text=_count_with_text(items),
        events=interactions.num_rows,
        repeats=_count_repeats(_pairs(interactions)),
        first_time=span.get("min"),
        last_time=span.get("max"),
        dropped=tuple(notes.dropped),
        guessed=tuple(notes.guessed),
    )


def _count_repeats(pairs: Codes) -> int:
    """Count the pairs that stand again; sorting is faster than a hash table here."""
    in_order = np.sort(pairs)
    return int(np.count_nonzero(in_order[1:] == in_order[:-1]))


def _count_with_text(items: "pa.Table") -> int:
    has_text = np.zeros(items.num_rows, bool)
    for name in TEXT_FIELDS:
        if name in items.column_names and name != "price":
            has_text |= items[name].is_valid().to_numpy()
    return int(has_text.sum())
