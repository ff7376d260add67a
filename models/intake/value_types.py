"""Columns of any Arrow type as ids, texts, integers or numbers, column by column.

Ids are always text, trimmed: `007` and 7 are two ids, and an integer 7 is the id `7`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import InvalidDataset
from models.ids import id_problem
from models.intake.wrong_rows import WrongRows

_MOST_WRONG = 1000  # cells that are looked for one by one
_MISSING = ["", "NA", "N/A", "NaN", "nan", "NaT", "null", "NULL", "None", "none", "\\N"]


class Ids(NamedTuple):
    """A column of ids."""

    codes: "pa.DictionaryArray"  # a blank id is null
    guess: str | None  # a fact that the column does not say itself


def to_ids(column: "pa.ChunkedArray", name: str, wrong: WrongRows, first: int) -> Ids:
    """Return a column as dictionary of trimmed texts; an id that no store takes is a wrong row.

    first: the row of all files at which the column begins.

    Raises InvalidDataset for a type that is no id, such as a fraction.
    """
    encoded = _encode(column)
    values = _trim(_id_texts(encoded.dictionary, name))
    guess = None
    if pc.all(pc.match_substring_regex(values, r"^\d+\.0$")).as_py():
        shown = values.drop_null()[0].as_py()
        guess = f"ids of {name} such as {shown} are read as {shown.removesuffix('.0')}"
        values = pc.replace_substring_regex(values, r"\.0$", "")
    ids = _recode(encoded.indices, values)
    _check_ids(ids, name, wrong, first)
    return Ids(ids, guess)


def to_texts(column: "pa.ChunkedArray") -> "pa.Array":
    """Return a column as trimmed texts; a blank value is null. Lists are joined by ` > `."""
    array = combine(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.string())
    if is_list(array.type):
        return _join_lists(array)
    try:
        return _trim(pc.cast(array, pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()])


def to_numbers(column: "pa.ChunkedArray", wrong: WrongRows, name: str, first: int) -> "pa.Array":
    """Return a column as numbers; a blank value, or no number, is null."""
    found = to_typed(column, pa.float64(), wrong, lambda text: f"{name} is {text!r}", first=first)
    return pc.if_else(pc.is_nan(found), None, found)


def to_integers(column: "pa.ChunkedArray", wrong: WrongRows, name: str, first: int) -> "pa.Array":
    """Return a column as integers; `3.0` is one too, and a blank value is null."""
    array = _plain(column)
    if pa.types.is_integer(array.type):
        return pc.cast(array, pa.int64())
    numbers = to_numbers(column, wrong, name, first)
    values = numbers.to_numpy(zero_copy_only=False)
    is_fraction = ~np.isnan(values) & (values != np.floor(values))
    wrong.check(
        is_fraction, lambda row: f"{name} is {values[row]}, expected an integer", first=first
    )
    return pc.cast(pc.if_else(is_fraction, None, numbers), pa.int64())


def to_typed(
    column: "pa.ChunkedArray",
    target: "pa.DataType",
    wrong: WrongRows,
    say: Callable[[str], str],
    *,
    first: int,
) -> "pa.Array":
    """Cast a column; a blank cell is null, and a cell that cannot be cast is wrong.

    Args:
        say: the problem of a cell, from its text.
        first: the row of all files at which the column begins.
    """
    array = blank_to_null(_plain(column))
    bad = uncastable(array, target)
    if bad.any():
        expected = "a number" if pa.types.is_floating(target) else f"a {target}"
        wrong.check(
            bad, lambda row: f"{say(str(array[row].as_py()))}, expected {expected}", first=first
        )
        array = pc.if_else(pa.array(bad), None, array)
    return pc.cast(array, target)


def blank_to_null(array: "pa.Array") -> "pa.Array":
    """Trim texts; blank ones and words that stand for nothing become null."""
    if not pa.types.is_string(array.type):
        return array
    texts = _trim(array)
    return pc.if_else(pc.is_in(texts, pa.array(_MISSING)), None, texts)


def uncastable(array: "pa.Array", target: "pa.DataType") -> NDArray[np.bool_]:
    """Mark the cells that cannot be cast, at most some thousand and then all others."""
    bad = np.zeros(len(array), bool)
    waiting = [(0, len(array))]
    num_bad = 0
    while waiting:
        start, stop = waiting.pop()
        if start == stop or _casts(array[start:stop], target):
            continue
        if stop - start == 1 or num_bad >= _MOST_WRONG:
            bad[start:stop] = True
            num_bad += 1
            continue
        middle = (start + stop) // 2
        waiting += [(middle, stop), (start, middle)]
    return bad


def combine(column: "pa.ChunkedArray") -> "pa.Array":
    """Join the chunks of a column; large and viewed texts become plain ones."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.unify_dictionaries()
    elif is_text(kind) and not pa.types.is_string(kind):
        column = column.cast(pa.string())
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):  # no chunk at all
        return pa.array([], column.type)
    return joined


def is_text(kind: "pa.DataType") -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def is_list(kind: "pa.DataType") -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _plain(column: "pa.ChunkedArray") -> "pa.Array":
    """Return a column without a dictionary; nulls without a type count as text."""
    array = combine(column)
    if pa.types.is_dictionary(array.type):
        array = pc.cast(array, array.type.value_type)
        array = pc.cast(array, pa.string()) if is_text(array.type) else array
    return pa.nulls(len(array), pa.string()) if pa.types.is_null(array.type) else array


def _check_ids(ids: "pa.DictionaryArray", name: str, wrong: WrongRows, first: int) -> None:
    problems = [id_problem(value) for value in ids.dictionary.to_pylist()]
    if not any(problems):
        return
    codes = pc.fill_null(ids.indices, -1).to_numpy()
    bad = np.array([problem is not None for problem in problems])[codes] & (codes >= 0)
    wrong.check(
        bad, lambda row: f"{name} {ids[row].as_py()[:40]!r} {problems[codes[row]]}", first=first
    )


def _casts(array: "pa.Array", target: "pa.DataType") -> bool:
    try:
        pc.cast(array, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _encode(column: "pa.ChunkedArray") -> "pa.DictionaryArray":
    array = combine(column)
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), pa.string())
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def _id_texts(values: "pa.Array", name: str) -> "pa.Array":
    """Return distinct ids as text."""
    kind = values.type
    if is_text(kind) or pa.types.is_integer(kind):
        return _cast_ids(values, name)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        whole = pc.equal(values, pc.floor(values))
        if pc.all(pc.fill_null(whole, True)).as_py() is not False:
            return _cast_ids(pc.cast(values, pa.int64(), safe=False), name)
    raise InvalidDataset(f"column {name!r} is {kind}, expected ids as text or integers")


def _cast_ids(values: "pa.Array", name: str) -> "pa.Array":
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowInvalid as exc:
        raise InvalidDataset(f"column {name!r} holds bytes, expected ids as UTF-8 text") from exc


def _trim(values: "pa.Array") -> "pa.Array":
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _recode(indices: "pa.Array", values: "pa.Array") -> "pa.DictionaryArray":
    """Point the rows at distinct values; a null value makes its rows null."""
    distinct = values.dictionary_encode()
    codes = pc.take(pc.cast(distinct.indices, pa.int32()), pc.cast(indices, pa.int64()))
    return pa.DictionaryArray.from_arrays(codes, distinct.dictionary)


def _join_lists(array: "pa.Array") -> "pa.Array":
    """Join the texts of each list; the first list counts where lists hold lists."""
    kind = array.type.value_type
    if is_list(kind):
        return _join_lists(
            pc.list_element(pc.if_else(pc.equal(pc.list_value_length(array), 0), None, array), 0)
        )
    texts = pc.cast(array, pa.list_(pa.string()))
    return _trim(pc.binary_join(texts, " > "))
