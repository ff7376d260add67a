"""Events of a user, and the history that results from them.

Owns the checks of user ids and events, the form of an event in a stream entry, and the merge into a
history: deduplicated by event id, ordered by time, cut to the newest HISTORY_LIMIT events. Knows
nothing of Redis.
"""

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from models.errors import InvalidRecord, InvalidUserId
from models.ids import MAX_ID_BYTES, has_forbidden, id_problem

HISTORY_LIMIT = 256  # events of a history
STREAM_LIMIT = 2 * HISTORY_LIMIT  # events read, so that late arrivals do not push out newer ones
DEDUP_LIMIT = 4096  # events of one user within a day whose ids are remembered

_TYPE = re.compile(r"[a-z0-9_.-]{0,32}")
_DAY_MS = 24 * 3600 * 1000
_CLOCKS_MS = 5 * 60 * 1000  # largest difference between the clocks of a store and of its clients
_RACING = 64  # entries that other processes may add at the same time
_MAX_TIMESTAMP = 2**53  # exact in JSON numbers too


class Event(NamedTuple):
    """An interaction of a user with an item."""

    item_id: str
    timestamp: int  # unix seconds
    event_id: str  # two events of one user with the same id are one event
    type: str = ""  # kind of the interaction, such as "click" or "purchase"; "" if nobody said
    value: float | None = None  # amount that belongs to it, such as a price


class Fate(Enum):
    """Fate of an event that is offered to a history."""

    NEW = "new"
    REPEATED = "repeated"  # its id is known
    TOO_OLD = "too_old"  # the history is full, and the event is no newer than the oldest one there


def check_user_id(user_id: str) -> None:
    """Raise InvalidUserId unless this is 1 to 256 bytes of UTF-8 without control characters."""
    if user_id.isprintable() and 0 < len(user_id) <= MAX_ID_BYTES // 4:  # as nearly all are
        return
    if (problem := id_problem(user_id)) is not None:
        raise InvalidUserId(f"user id {user_id[:40]!r} {problem}")


def check_event(event: Event) -> None:
    """Raise InvalidRecord for ids, times, types or values that a stream entry cannot hold."""
    for name, value in (("item id", event.item_id), ("event id", event.event_id)):
        if (problem := id_problem(value)) is not None:
            raise InvalidRecord(f"event: {name} {value[:40]!r} {problem}")
    if not 0 <= event.timestamp <= _MAX_TIMESTAMP:
        raise InvalidRecord(f"event: timestamp {event.timestamp}, expected 0..{_MAX_TIMESTAMP}")
    if not _TYPE.fullmatch(event.type):
        raise InvalidRecord(
            f"event: type {event.type[:40]!r}, expected up to 32 characters of a-z 0-9 _ . -"
        )
    if event.value is not None and not math.isfinite(event.value):
        raise InvalidRecord(f"event: value {event.value}, expected a finite number")


def encode_event(event: Event) -> tuple[bytes, bytes]:
    """Encode an event as the one field of a stream entry: event id, "<stamp> <item id>".

    The stamp is the timestamp; with a type or a value "<timestamp>,<type>,<value>", either empty.
    """
    return event.event_id.encode(), f"{_stamp_of(event)} {event.item_id}".encode()


def decode_event(event_id: bytes, value: bytes) -> Event | None:
    """Decode the field that `encode_event` wrote; None for bytes that are no event."""
    try:
        stamp, item = value.split(b" ", 1)
        timestamp, kind, amount = _read_stamp(stamp) if b"," in stamp else (int(stamp), "", None)
        texts = item.decode(), event_id.decode()
    except ValueError:
        return None
    is_sound = (
        0 < len(item) <= MAX_ID_BYTES
        and 0 < len(event_id) <= MAX_ID_BYTES
        and 0 <= timestamp <= _MAX_TIMESTAMP
        and ((both := "".join(texts)).isprintable() or not has_forbidden(both))
    )
    return Event(texts[0], timestamp, texts[1], kind, amount) if is_sound else None


def merge_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Merge events in order of arrival into a history: oldest first, at most HISTORY_LIMIT."""
    first_of_id: dict[str, Event] = {}
    for event in events:
        first_of_id.setdefault(event.event_id, event)
    return tuple(sorted(first_of_id.values(), key=lambda event: event.timestamp)[-HISTORY_LIMIT:])


def tell_fates(stored: Sequence[Event], offered: Iterable[Event]) -> list[Fate]:
    """Tell what becomes of each event of `offered` in a stream that holds `stored`.

    Only new events are added. Importing a long history twice adds nothing: the ids that were cut
    off are unknown, but their events are too old.
    """
    known = {event.event_id for event in stored}
    history = merge_events(stored)
    floor = history[0].timestamp if len(history) == HISTORY_LIMIT else -1
    fates = []
    for event in offered:
        if event.event_id in known:
            fates.append(Fate.REPEATED)
        elif event.timestamp <= floor:
            fates.append(Fate.TOO_OLD)
        else:
            fates.append(Fate.NEW)
            known.add(event.event_id)
    return fates


def is_within_a_day(arrived_ms: int, *, now_ms: int) -> bool:
    """Tell if the id of an event that arrived at `arrived_ms` has to be remembered at `now_ms`.

    Both are unix milliseconds.
    """
    return arrived_ms > now_ms - _DAY_MS - _CLOCKS_MS


def stream_limit(arrived_ms: Sequence[int], num_fresh: int, *, now_ms: int) -> int:
    """Return the number of entries to keep in a stream to which `num_fresh` entries are added.

    STREAM_LIMIT, or DEDUP_LIMIT if that would cut entries of the last day.

    Args:
        arrived_ms: arrivals of the present entries, oldest first, unix milliseconds.
        now_ms: unix milliseconds.
    """
    num_leaving = len(arrived_ms) + num_fresh + _RACING - STREAM_LIMIT
    if num_leaving <= 0:
        return STREAM_LIMIT
    has_young = num_leaving > len(arrived_ms) or is_within_a_day(
        arrived_ms[num_leaving - 1], now_ms=now_ms
    )
    return DEDUP_LIMIT if has_young else STREAM_LIMIT


def _stamp_of(event: Event) -> str:
    if not event.type and event.value is None:
        return str(event.timestamp)
    value = "" if event.value is None else repr(float(event.value))
    return f"{event.timestamp},{event.type},{value}"


def _read_stamp(stamp: bytes) -> tuple[int, str, float | None]:
    """Return timestamp, type and value of a stamp that has all three. Raises ValueError."""
    timestamp, kind, amount = stamp.decode().split(",")
    value = float(amount) if amount else None
    if not _TYPE.fullmatch(kind) or (value is not None and not math.isfinite(value)):
        raise ValueError(f"not a stamp: {stamp[:80]!r}")
    return int(timestamp), kind, value
