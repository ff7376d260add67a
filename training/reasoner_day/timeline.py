"""Events of all users by time: a data folder, and the learner's log behind it.

A moment is an entry id, `<milliseconds>-<number>`. An event of the log has the moment of its
arrival; any other event that of its timestamp. Knows nothing of models.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.errors import InvalidSettings
from models.reasoner.next_items import NextItem
from models.reasoner.think import MAX_HISTORY, UserHistory
from models.store.contract import Logged, order_of
from models.store.events import Event
from training.learn.guard import Guard, GuardSettings, Held

DAY_MS = 24 * 3600 * 1000

IsErased = Callable[[str, int], bool]  # by user id and moment, in unix milliseconds
Moment = tuple[int, int]


def read_moment(text: str) -> str:
    """Read a watermark: an entry id, or a day as YYYY-MM-DD for the moment before it begins.

    Raises InvalidSettings.
    """
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return f"{round(1000 * day.timestamp()) - 1}-0"
    except ValueError:
        pass
    milliseconds, _, number = text.partition("-")
    if not (milliseconds.isdecimal() and number.isdecimal()):
        raise InvalidSettings(f"{text!r}, expected an entry of the log, ms-n, or a day, YYYY-MM-DD")
    return text


class Part(NamedTuple):
    """Users with events in a stretch of time, and their histories to its end."""

    user_ids: list[str]
    histories: list[list[int]]  # catalog rows, oldest first
    firsts: list[int]  # of each history, the position of the first event in the stretch

    @property
    def num_events(self) -> int:
        return sum(map(len, self.histories)) - sum(self.firsts)

    @property
    def items(self) -> list[int]:
        """Return the catalog rows of the events in the stretch, each once."""
        ends = zip(self.histories, self.firsts, strict=True)
        return sorted({row for rows, first in ends for row in rows[first:]})

    def next_items(self, most: int, *, seed: int, history: int = MAX_HISTORY) -> list[NextItem]:
        """Draw events that are new for a user with a history, at most `most`.

        history: newest items before an event that the reasoner reads.
        """
        found = [
            next_item(user_id, rows, at, history)
            for user_id, rows, first in zip(*self, strict=True)
            for at in range(max(1, first), len(rows))
            if rows[at] not in rows[:at]
        ]
        chosen = np.random.default_rng(seed).permutation(len(found))[:most]
        return [found[at] for at in sorted(chosen.tolist())]


def next_item(user_id: str, rows: Sequence[int], at: int, history: int) -> NextItem:
    return NextItem(UserHistory(user_id, tuple(rows[max(0, at - history) : at])), rows[at])


class Timeline:
    """Events of all users, as catalog rows; events of unknown items are left out."""

    def __init__(self, events: Iterable[Logged], catalog: Catalog) -> None:
        """events: of each user oldest first."""
        self._rows: dict[str, list[int]] = {}
        self._moments: dict[str, list[Moment]] = {}
        for logged in events:
            if (row := catalog.row(logged.event.item_id)) is not None:
                self._rows.setdefault(logged.user_id, []).append(row)
                self._moments.setdefault(logged.user_id, []).append(order_of(logged.entry))

    def moments(self, *, after: str) -> list[str]:
        """Return the moments of all events behind another, oldest first."""
        since = order_of(after)
        found = sorted(
            moment for moments in self._moments.values() for moment in moments if moment > since
        )
        return [f"{milliseconds}-{number}" for milliseconds, number in found]

    def part(self, *, after: str | None, until: str) -> Part:
        """Return the users with events behind `after` (None: any) up to `until`."""
        begin, end, part = order_of(after or "0-0"), order_of(until), Part([], [], [])
        for user_id in sorted(self._rows):
            moments = self._moments[user_id]
            first = sum(moment <= begin for moment in moments) if after else 0
            last = sum(moment <= end for moment in moments)
            if first < last:
                part.user_ids.append(user_id)
                part.histories.append(self._rows[user_id][:last])
                part.firsts.append(first)
        return part

    def digest(self, catalog: Catalog) -> str:
        """Hash users, moments and SIDs."""
        digest = hashlib.sha256()
        for user_id in sorted(self._rows):
            sids = catalog.sids[self._rows[user_id]].astype("<i4").tobytes()
            digest.update(f"{user_id} {self._moments[user_id]} ".encode() + sids)
        return digest.hexdigest()


def merged_events(
    dataset: Dataset,
    log: Iterable[Logged],
    *,
    until: str | None,
    types: Mapping[str, float],
    is_erased: IsErased,
) -> list[Logged]:
    """Return the events of data folder and log by time, each once, without erased users.

    An event that both have, equal in user, item and time, has the moment of the log. One that the
    log has again, by its event id, has the first. Events of a type with weight 0 are left out.
    """
    by_id: dict[tuple[str, str], Logged] = {}
    for each in log:
        by_id.setdefault((each.user_id, each.event.event_id), each)
    arrived = list(by_id.values())
    known = {(each.user_id, each.event.item_id, each.event.timestamp) for each in arrived}
    events = [each for each in _of_dataset(dataset) if _key(each) not in known] + arrived
    last = order_of(until) if until else None
    kept = [
        each
        for each in events
        if (last is None or order_of(each.entry) <= last)
        and types.get(each.event.type, 1.0) > 0
        and not is_erased(each.user_id, each.arrived_ms)
    ]
    return sorted(kept, key=lambda each: order_of(each.entry))


def _of_dataset(dataset: Dataset) -> Iterator[Logged]:
    for user_id in sorted(dataset.histories):
        for event in dataset.histories[user_id]:
            moment = f"{1000 * event.timestamp if dataset.has_times else 0}-{event.pos}"
            timed = Event(event.item_id, event.timestamp, f"{user_id}:{event.pos}", event.type)
            yield Logged(moment, user_id, timed)


def _key(logged: Logged) -> tuple[str, str, int]:
    return logged.user_id, logged.event.item_id, logged.event.timestamp


class Guarded(NamedTuple):
    """Events without those that the guard held back."""

    events: list[Logged]
    held: Held
    num_new: int  # new events, with those held back


def guard_new_events(events: Sequence[Logged], *, after: str, settings: GuardSettings) -> Guarded:
    """Hold back new events above the limits of one user or item in a UTC day."""
    guard, since = Guard(settings, DAY_MS), order_of(after)
    kept, num_new = [], 0
    for logged in events:
        is_new = order_of(logged.entry) > since
        num_new += is_new
        if not is_new or guard.admits(logged):
            kept.append(logged)
    return Guarded(kept, guard.take_held(), num_new)


def old_sample(
    timeline: Timeline, *, until: str, count: int, seed: int, history: int = MAX_HISTORY
) -> list[NextItem]:
    """Draw users of a time, with the last item of each as the question.

    history: newest items before it that the reasoner reads.
    """
    part = timeline.part(after=None, until=until)
    chosen = np.random.default_rng(seed).permutation(len(part.user_ids))
    found: list[NextItem] = []
    for at in chosen.tolist():
        rows = part.histories[at]
        if len(rows) > 1 and len(found) < count:
            found.append(next_item(part.user_ids[at], rows, len(rows) - 1, history))
    return found
