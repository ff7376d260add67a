"""Events of all files as one table of plain columns: ids, times, positions, types and values."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.errors import InvalidDataset
from models.intake.file_groups import FileGroup, FileGroups
from models.intake.item_table import texts_of
from models.intake.notes import Notes, note_files
from models.intake.reading_options import ReadingOptions
from models.intake.times import read_times
from models.intake.value_types import to_ids, to_integers, to_numbers, to_texts
from models.intake.wrong_rows import WrongRows


def read_events(groups: FileGroups, options: ReadingOptions, notes: Notes) -> "pa.Table":
    """Return the events in the order of the files, with the number of their row.

    The columns are `user_id`, `item_id`, `row`, and of `pos`, `micros` (microseconds since 1970),
    `event_id`, `type`, `value` and the texts those that the files have. Raises InvalidDataset.
    """
    tables = [_type_columns(group, groups.wrong, options, notes) for group in groups.groups]
    has_pos, has_times = _has_all(tables, "pos"), _has_all(tables, "micros")
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    if not has_pos and has_times and table["micros"].null_count == table.num_rows:
        table, has_times = table.drop_columns(["micros"]), False
    _check_filled(table, "user_id", "expected an id", groups.wrong)
    _check_filled(table, "item_id", "expected an id", groups.wrong)
    if has_pos:
        _check_filled(table, "pos", "expected an integer", groups.wrong)
    elif has_times:
        _check_filled(table, "micros", "expected a time, or a complete column pos", groups.wrong)
    return _leave_out_wrong(table, groups, notes)


def _type_columns(
    group: FileGroup, wrong: WrongRows, options: ReadingOptions, notes: Notes
) -> "pa.Table":
    try:
        columns, times = _typed(group, wrong, options, notes)
    except InvalidDataset as exc:
        name = group.first_file.name
        raise (exc if name in str(exc) else InvalidDataset(f"{name}: {exc}")) from exc
    note_files(group, notes, times=times)
    return pa.table(columns)


def _typed(
    group: FileGroup, wrong: WrongRows, options: ReadingOptions, notes: Notes
) -> tuple[dict[str, "pa.Array"], str | None]:
    """Give the columns of a group their types; return them and the unit of the times."""
    raw, first = group.table, group.first
    names = group.first_file.chosen.columns
    columns, unit = {}, None
    for field in ("user_id", "item_id"):
        columns[field], guess = to_ids(raw[field], names[field], wrong, first)
        if guess:
            notes.guess(f"{group.first_file.name}: {guess}")
    if "timestamp" in raw.column_names:
        times = read_times(raw["timestamp"], wrong, options, first=first)
        columns["micros"], unit = times.micros, times.form
        if times.guess:
            notes.guess(times.guess)
    if "pos" in raw.column_names:
        columns["pos"] = to_integers(raw["pos"], wrong, "pos", first)
    if "value" in raw.column_names:
        columns["value"] = to_numbers(raw["value"], wrong, "value", first)
    for field in ("event_id", "type"):
        if field in raw.column_names:
            columns[field] = to_texts(raw[field])
    return columns | texts_of(raw, group.first_file), unit


def leave_out(table: "pa.Table", bad: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "pa.Table":
    return table.filter(pa.array(~bad)) if bad.any() else table


def _has_all(tables: Sequence["pa.Table"], field: str) -> bool:
    """Return True if all tables have a field, False if none. Raises InvalidDataset for some."""
    having = [field in table.column_names for table in tables]
    if any(having) and not all(having):
        shown = "pos" if field == "pos" else "times"
        raise InvalidDataset(f"some files have {shown} and others do not, expected all or none")
    return all(having)


def _check_filled(table: "pa.Table", field: str, expected: str, wrong: WrongRows) -> None:
    missing = table[field].is_null().to_numpy()
    name = "timestamp" if field == "micros" else field
    wrong.check(missing, lambda _: f"{name} is missing, {expected}")


def _leave_out_wrong(table: "pa.Table", groups: FileGroups, notes: Notes) -> "pa.Table":
    num_wrong = int(groups.wrong.mask.sum()) + groups.num_skipped
    notes.drop(num_wrong, "wrong rows", groups.wrong.examples)
    kept = leave_out(table, groups.wrong.mask)
    if not kept.num_rows:
        names = ", ".join(file.name for group in groups.groups for file in group.files)
        raise InvalidDataset(f"no rows in {names} but wrong ones")
    return kept.combine_chunks()
