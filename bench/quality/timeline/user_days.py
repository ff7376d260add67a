"""Global time split: all events up to a day are learnt, each later event is a target.

A user's day is predicted whole from the state before it: inside a day the order of the events is
that of item ids. Knows data sets; knows nothing of models.
"""

# N = items of the data set

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalog.dataset import Dataset
from models.errors import InvalidDataset

Days = list[list["UserDay"]]


@dataclass(frozen=True)
class UserDay:
    """One day of one user behind the split. Items are rows of the data set, oldest first."""

    user_id: str
    history: tuple[int, ...]  # of all days before
    num_old: int  # items of `history` that are not after the split
    items: tuple[int, ...]  # of this day
    day: int  # days since 1970

    @property
    def targets(self) -> tuple[int, ...]:
        """Return the items that are judged: new for this user, who has a history."""
        known = set(self.history)
        return tuple(row for row in self.items if row not in known) if self.history else ()


@dataclass(frozen=True)
class TimeSplit:
    """A data set in two parts by time."""

    item_ids: tuple[str, ...]  # of each row
    last_day: int  # of the first part, as days since 1970
    learnt: list[tuple[int, ...]]  # first part: rows of each user, oldest first
    days: Days  # second part: the users of each day, both in order

    def times_learnt(self) -> NDArray[np.int64]:
        """Return how often each item occurs in the first part, (N,)."""
        rows = np.array([row for history in self.learnt for row in history], dtype=np.int64)
        return np.bincount(rows, minlength=len(self.item_ids))


def split_time(dataset: Dataset, *, share: float) -> TimeSplit:
    """Split at the day of the event behind which 1 - `share` of all events lie.

    Raises InvalidDataset for data without times, or with nothing after the split.
    """
    if not dataset.has_times:
        raise InvalidDataset("interactions.parquet has no column timestamp, expected one")
    every = np.sort([event.day for events in dataset.histories.values() for event in events])
    last_day = int(every[int(share * len(every))])
    item_ids = tuple(sorted(dataset.items))
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    learnt: list[tuple[int, ...]] = []
    by_day: dict[int, list[UserDay]] = defaultdict(list)
    for user_id in sorted(dataset.histories):
        old, later = _split_user(dataset, user_id, row_of, last_day)
        learnt.append(old)
        for day, found in later.items():
            by_day[day].append(found)
    if not by_day:
        raise InvalidDataset(f"no event after day {last_day}, expected {1 - share:.0%} of them")
    return TimeSplit(item_ids, last_day, learnt, [by_day[day] for day in sorted(by_day)])


def _split_user(
    dataset: Dataset, user_id: str, row_of: Mapping[str, int], last_day: int
) -> tuple[tuple[int, ...], dict[int, UserDay]]:
    """Return the user's rows up to the last day, and the days behind it."""
    events = sorted(dataset.histories[user_id], key=lambda event: (event.day, event.pos))
    rows = tuple(row_of[event.item_id] for event in events)
    num_old = sum(event.day <= last_day for event in events)
    found = {}
    first = num_old
    for at in range(num_old + 1, len(events) + 1):
        if at == len(events) or events[at].day != events[first].day:
            day = events[first].day
            found[day] = UserDay(user_id, rows[:first], num_old, rows[first:at], day)
            first = at
    return rows[:num_old], found
