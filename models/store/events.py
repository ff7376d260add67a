"""A user's events and the history they add up to.

Owns what a sound user id and event are, how an event is written into a stream entry, and the
merge: deduplicated by event id, ordered by time, the newest HISTORY_LIMIT. Knows nothing of Redis.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.errors import InvalidRecord, InvalidUserId

HISTORY_LIMIT = 256  # events of a history
STREAM_LIMIT = 2 * HISTORY_LIMIT  # events read, so that late arrivals do not push out newer ones
DEDUP_LIMIT = 4096  # events of one user within a day, the retries of which add nothing
MAX_ID_BYTES = 256

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # categories Cc and Cs
_DAY_MS = 24 * 3600 * 1000
_CLOCKS_MS = 5 * 60 * 1000  # that the clocks of a store and its users may differ by
_RACING = 64  # entries that others may add while one is adding
_MAX_TIMESTAMP = 2**53  # exact in JSON numbers too


class Event(NamedTuple):
    """timestamp: unix seconds. Two events of one user with one event_id are the same event."""

    item_id: str
    timestamp: int
    event_id: str


def check_user_id(user_id: str) -> None:
    """Raise InvalidUserId unless this is 1 to 256 bytes of UTF-8 without control characters."""
    if (problem := _id_problem(user_id)) is not None:
        raise InvalidUserId(f"user id {user_id[:40]!r} {problem}")


def check_event(event: Event) -> None:
    """Raise InvalidRecord for ids or times that a stream entry cannot hold."""
    for name, value in (("item id", event.item_id), ("event id", event.event_id)):
        if (problem := _id_problem(value)) is not None:
            raise InvalidRecord(f"event: {name} {value[:40]!r} {problem}")
    if not 0 <= event.timestamp <= _MAX_TIMESTAMP:
        raise InvalidRecord(f"event: timestamp {event.timestamp}, expected 0..{_MAX_TIMESTAMP}")


def encode_event(event: Event) -> tuple[bytes, bytes]:
    """The one field of a stream entry: event id, and "<timestamp> <item id>"."""
    return event.event_id.encode(), f"{event.timestamp} {event.item_id}".encode()


def decode_event(event_id: bytes, value: bytes) -> Event | None:
    """Inverse of `encode_event`; None for bytes that are no event."""
    try:
        stamp, item = value.split(b" ", 1)
        timestamp, texts = int(stamp), (item.decode(), event_id.decode())
    except ValueError:
        return None
    is_sound = (
        0 < len(item) <= MAX_ID_BYTES
        and 0 < len(event_id) <= MAX_ID_BYTES
        and 0 <= timestamp <= _MAX_TIMESTAMP
        and not _has_forbidden("".join(texts))
    )
    return Event(texts[0], timestamp, texts[1]) if is_sound else None


def merge_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """The history that arriving events add up to: oldest first, at most HISTORY_LIMIT."""
    first_of_id: dict[str, Event] = {}
    for event in events:
        first_of_id.setdefault(event.event_id, event)
    return tuple(sorted(first_of_id.values(), key=lambda event: event.timestamp)[-HISTORY_LIMIT:])


def are_fresh(stored: Sequence[Event], offered: Iterable[Event]) -> list[bool]:
    """Which of `offered` belong in the stream beside `stored`.

    Known event ids do not, and neither do events no newer than the oldest of a full history: they
    were forgotten before, so that importing a long history twice adds nothing.
    """
    known = {event.event_id for event in stored}
    history = merge_events(stored)
    floor = history[0].timestamp if len(history) == HISTORY_LIMIT else -1
    fresh = []
    for event in offered:
        fresh.append(event.event_id not in known and event.timestamp > floor)
        if fresh[-1]:
            known.add(event.event_id)
    return fresh


def is_within_a_day(arrived_ms: int, *, now_ms: int) -> bool:
    """Whether an event id of then has to be remembered; unix milliseconds."""
    return arrived_ms > now_ms - _DAY_MS - _CLOCKS_MS


def stream_limit(arrived_ms: Sequence[int], num_fresh: int, *, now_ms: int) -> int:
    """Entries to keep of a stream once `num_fresh` join those that arrived then, oldest first.

    STREAM_LIMIT, unless some of those that would have to go came within the last day.
    """
    num_leaving = len(arrived_ms) + num_fresh + _RACING - STREAM_LIMIT
    if num_leaving <= 0:
        return STREAM_LIMIT
    has_young = num_leaving > len(arrived_ms) or is_within_a_day(
        arrived_ms[num_leaving - 1], now_ms=now_ms
    )
    return DEDUP_LIMIT if has_young else STREAM_LIMIT


def _id_problem(value: str) -> str | None:
    if _has_forbidden(value):
        return "holds a control character or a lone surrogate"
    num_bytes = len(value.encode())
    if not 1 <= num_bytes <= MAX_ID_BYTES:
        return f"has {num_bytes} bytes, expected 1..{MAX_ID_BYTES}"
    return None


def _has_forbidden(text: str) -> bool:
    """What prints holds neither, and most ids do: the search is ten times slower."""
    return not text.isprintable() and _FORBIDDEN.search(text) is not None
