"""Items: texts of each item once, hidden items, and items that only events name."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import InvalidDataset
from models.intake.column_names import TEXT_FIELDS
from models.intake.data_files import DataFile
from models.intake.file_groups import FileGroup, FileGroups
from models.intake.notes import Notes, note_files
from models.intake.value_types import is_list, to_ids, to_texts
from models.intake.wrong_rows import WrongRows

_TRUE = ["1", "true", "True", "TRUE", "yes", "t"]


class Items(NamedTuple):
    """Items of the files."""

    table: "pa.Table | None"  # `item_id` and the texts that there are; None without files
    hidden: "pa.Array"  # ids of items that are no longer to be recommended


def read_items(groups: FileGroups, notes: Notes) -> Items:
    """Return the items of all files, each once; the last row of an item holds.

    Raises InvalidDataset for a row without an id.
    """
    if not groups.groups:
        return Items(None, pa.array([], pa.string()))
    tables = []
    for group in groups.groups:
        note_files(group, notes)
        tables.append(_typed(group, groups.wrong, notes))
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    table = table.combine_chunks()
    missing = table["item_id"].is_null().to_numpy()
    groups.wrong.check(missing, lambda _: "item_id is missing, expected a non-empty id")
    num_wrong = int(groups.wrong.mask.sum()) + groups.num_skipped
    notes.drop(num_wrong, "wrong rows of items", groups.wrong.examples)
    if groups.wrong.mask.any():
        table = table.filter(pa.array(~groups.wrong.mask)).combine_chunks()
    return _without_hidden(_keep_last(table, notes), notes)


def add_items_of_events(items: Items, events: "pa.Table", notes: Notes) -> "pa.Table":
    """Add the items that only events name, with the texts that their events hold."""
    ids = events["item_id"].combine_chunks()
    codes = ids.indices.to_numpy()
    first = np.full(len(ids.dictionary), len(codes))
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    is_new = first < len(codes)
    if items.table is not None:
        is_new &= ~pc.is_in(ids.dictionary, items.table["item_id"].combine_chunks()).to_numpy(
            zero_copy_only=False
        )
    new = np.flatnonzero(is_new)
    new = pa.array(new[np.argsort(first[new], kind="stable")])
    names = ids.dictionary.take(new)
    if items.table is not None and len(new):
        text = "items of events have no row among the items, and no text but that of their events"
        notes.guess(text, len(new), (repr(name) for name in names[:3].to_pylist()))
    texts = {name: column.take(new) for name, column in _texts_of_events(events).items()}
    added = pa.table({"item_id": names, **texts})
    if items.table is None:
        return added
    return pa.concat_tables([items.table, added], promote_options="default").combine_chunks()


def texts_of(table: "pa.Table", file: DataFile) -> dict[str, "pa.Array"]:
    """Return the text fields of a table of items or events."""
    texts = {}
    for field in TEXT_FIELDS:
        if field in table.column_names:
            texts[field] = to_texts(table[field])
    if "categories" in texts and not is_list(table["categories"].type):
        is_words = file.chosen.columns["categories"] in file.form.words
        texts["categories"] = (_words_as_path if is_words else _path)(texts["categories"])
    if file.form.flags:
        texts["categories"] = _of_flags(table, file.form.flags)
    return texts


def _words_as_path(texts: "pa.Array") -> "pa.Array":
    """Write words between blanks, or texts in single quotes, as a path."""
    quoted = pc.match_substring_regex(texts, "^'.*'$")
    as_words = pc.replace_substring_regex(texts, r"\s+", " > ")
    inner = pc.replace_substring_regex(texts, "^'|'$", "")
    return pc.if_else(quoted, pc.replace_substring_regex(inner, r"'\s*,\s*'", " > "), as_words)


def _is_true(column: "pa.ChunkedArray") -> NDArray[np.bool_]:
    """Mark the rows whose value is true or 1."""
    marked: NDArray[np.bool_] = pc.fill_null(
        pc.is_in(to_texts(column), pa.array(_TRUE)), False
    ).to_numpy(zero_copy_only=False)
    return marked


def _typed(group: FileGroup, wrong: WrongRows, notes: Notes) -> "pa.Table":
    file, raw = group.first_file, group.table
    try:
        ids, guess = to_ids(raw["item_id"], file.chosen.columns["item_id"], wrong, group.first)
    except InvalidDataset as exc:
        raise (exc if file.name in str(exc) else InvalidDataset(f"{file.name}: {exc}")) from exc
    if guess:
        notes.guess(f"{file.name}: {guess}")
    columns = {"item_id": ids, **texts_of(raw, file)}
    if "is_hidden" in raw.column_names:
        columns["is_hidden"] = pa.array(_is_true(raw["is_hidden"]))
    return pa.table(columns)


def _without_hidden(table: "pa.Table", notes: Notes) -> Items:
    if "is_hidden" not in table.column_names:
        return Items(table, pa.array([], pa.string()))
    is_hidden = pc.fill_null(table["is_hidden"], False)
    hidden = table["item_id"].filter(is_hidden).combine_chunks()
    notes.drop(len(hidden), "hidden items", map(repr, hidden[:3].to_pylist()))
    kept = table.filter(pc.invert(is_hidden)).drop_columns(["is_hidden"])
    return Items(kept, hidden)


def _keep_last(table: "pa.Table", notes: Notes) -> "pa.Table":
    """Keep the last row of each item, in the order of the first ones."""
    ids = table["item_id"].combine_chunks()
    codes = ids.indices.to_numpy()
    first, last = (np.full(len(ids.dictionary), -1) for _ in range(2))
    last[codes] = np.arange(len(codes))
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used], kind="stable")]
    unique = table.take(pa.array(last[used]))
    unique = unique.set_column(0, "item_id", ids.dictionary.take(pa.array(used)))
    _note_repeated(table, codes, last, notes)
    return unique


def _note_repeated(
    table: "pa.Table", codes: NDArray[np.int32], last: NDArray[np.int64], notes: Notes
) -> None:
    earlier = np.flatnonzero(last[codes] != np.arange(len(codes)))
    if not len(earlier):
        return
    same = _equal_texts(table, earlier, last[codes[earlier]])
    names = table["item_id"].combine_chunks().take(pa.array(earlier)).to_pylist()
    equal = [name for name, is_same in zip(names, same, strict=True) if is_same]
    other = [name for name, is_same in zip(names, same, strict=True) if not is_same]
    notes.drop(len(equal), "rows of items that stand twice; one is kept", map(repr, equal))
    text = "rows of items that stand again with other texts; the last one is kept"
    notes.drop(len(other), text, map(repr, other))


def _equal_texts(
    table: "pa.Table", ours: NDArray[np.int64], theirs: NDArray[np.int64]
) -> NDArray[np.bool_]:
    same = np.ones(len(ours), bool)
    for name in table.column_names[1:]:
        left, right = table[name].take(pa.array(ours)), table[name].take(pa.array(theirs))
        equal = pc.fill_null(pc.equal(left, right), False)
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        same &= pc.or_(equal, both_null).to_numpy()
    return same


def _texts_of_events(events: "pa.Table") -> dict[str, "pa.Array"]:
    """Return the last text of each item that its events hold, by the code of the item."""
    ids = events["item_id"].combine_chunks()
    texts = {}
    for field in TEXT_FIELDS:
        if field in events.column_names:
            column = events[field].combine_chunks()
            filled = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            rows = np.full(len(ids.dictionary), -1)
            rows[ids.indices.to_numpy()[filled]] = filled
            texts[field] = column.take(pa.array(rows, mask=rows < 0))
    return texts


def _path(texts: "pa.Array") -> "pa.Array":
    """Write `A|B` and `["A", "B"]` as `A > B`; another text stays."""
    is_json = pc.match_substring_regex(texts, r"^\[.*\]$")
    inner = pc.replace_substring_regex(texts, r'^\[\s*"?|"?\s*\]$', "")
    listed = pc.replace_substring_regex(inner, r'"\s*,\s*"', " > ")
    barred = pc.replace_substring_regex(texts, r"\s*\|\s*", " > ")
    path = pc.if_else(is_json, listed, barred)
    return pc.if_else(pc.is_in(path, pa.array(["", "(no genres listed)"])), None, path)


def _of_flags(table: "pa.Table", flags: tuple[str, ...]) -> "pa.Array":
    """Join the names of the columns that hold 1."""
    names = [
        pc.if_else(pc.equal(table[name].combine_chunks(), "1"), f" > {name}", "")
        for name in flags
        if name != "unknown"
    ]
    joined = pc.replace_substring_regex(pc.binary_join_element_wise(*names, ""), "^ > ", "")
    return pc.if_else(pc.equal(joined, ""), None, joined)
