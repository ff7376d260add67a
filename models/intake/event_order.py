"""Order of the events of each user, events that stand twice, and times that are missing.

Works on codes of users and items, with numpy, without a loop over rows.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Codes = NDArray[np.int64]


def find_repeated_rows(first: Codes, second: Codes, others: Sequence["pa.Array"]) -> Codes:
    """Return the rows that equal an earlier row in all columns, in ascending order.

    Args:
        first: the column that separates rows best, such as a user and an item as one number.
        second: a second one, such as a time.
        others: the other columns.
    """
    by_value = np.lexsort((second, first))
    equal = (first[by_value][1:] == first[by_value][:-1]) & (
        second[by_value][1:] == second[by_value][:-1]
    )
    in_run = np.zeros(len(first), bool)
    in_run[by_value[1:][equal]] = True
    in_run[by_value[:-1][equal]] = True
    rows = np.flatnonzero(in_run)
    if not len(rows):
        return rows
    columns = [pa.array(first[rows]), pa.array(second[rows])]
    columns += [other.take(pa.array(rows)) for other in others]
    names = [str(place) for place in range(len(columns))]
    table = pa.table([*columns, pa.array(rows)], [*names, "row"])
    kept = table.group_by(names, use_threads=False).aggregate([("row", "min")])["row_min"]
    repeated: Codes = np.setdiff1d(rows, kept.to_numpy(), assume_unique=True)
    return repeated


def order_by_time(users: Codes, micros: Codes | None) -> Codes:
    """Return the rows by user, each user's by time; rows of one time keep their order."""
    rows: Codes = np.lexsort((users,) if micros is None else (micros, users))
    return rows


def count_from_zero(sorted_users: Codes) -> Codes:
    """Return the place of each row among the rows of its user."""
    num_rows = len(sorted_users)
    starts = np.flatnonzero(np.r_[True, sorted_users[1:] != sorted_users[:-1]][:num_rows])
    lengths = np.diff(np.r_[starts, num_rows])
    places: Codes = np.arange(num_rows) - np.repeat(starts, lengths)
    return places


def find_double_places(users: Codes, positions: Codes) -> Codes:
    """Return for each row an earlier one of its user with its position; -1 without one."""
    by_place = np.lexsort((positions, users))
    same = (users[by_place][1:] == users[by_place][:-1]) & (
        positions[by_place][1:] == positions[by_place][:-1]
    )
    earlier = np.full(len(users), -1)
    earlier[by_place[1:][same]] = by_place[:-1][same]
    return earlier


def fill_times(users: Codes, positions: Codes, micros: Codes, missing: NDArray[np.bool_]) -> Codes:
    """Give an event without a time that of the user's event before it, or else after it.

    A user without any time gets the earliest time of all events.
    """
    order = np.lexsort((positions, users))
    user, known = users[order], ~missing[order]
    rows = np.arange(len(order))
    before = np.maximum.accumulate(np.where(known, rows, -1))
    after = np.minimum.accumulate(np.where(known, rows, len(rows))[::-1])[::-1]
    has_before = (before >= 0) & (user[before] == user)
    inside = np.minimum(after, len(rows) - 1)
    has_after = (after < len(rows)) & (user[inside] == user)
    source = np.where(has_before, before, inside)
    sorted_micros = micros[order]
    earliest = sorted_micros[known].min() if known.any() else 0
    filled = micros.copy()
    filled[order] = np.where(has_before | has_after, sorted_micros[source], earliest)
    return filled
