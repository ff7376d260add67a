"""State of one user: the commands that read it from Redis, and its value from the replies.

A second read of a user fetches and decodes only the events after those of the first. This is
checked: unless the stream is the old one with newer entries behind it, the replies give no state
and the whole stream is read. Pure: knows no server.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from models.catalog.sid import SidSpace
from models.store.events import STREAM_LIMIT, Event, decode_event, merge_events
from models.store.keys import Keys, Skipped, newest_record
from models.store.records import PrefixRecord
from models.store.wire import Command
from models.store.wish_turns import WishTurn, decode_turns

_ENTRY_ID = re.compile(rb"\d+-\d+")


@dataclass(frozen=True)
class Records:
    """The records of some layers, as bytes and decoded."""

    space: SidSpace
    layers: tuple[int, ...]  # generations, newest first
    blobs: tuple[bytes | None, ...]  # one a layer
    record: PrefixRecord | None  # the first sound one
    skipped: tuple[Skipped, ...]  # reasons to skip the layers before it

    def holds(
        self, space: SidSpace, layers: Sequence[int], blobs: tuple[bytes | None, ...]
    ) -> bool:
        return (self.blobs, self.layers, self.space) == (blobs, tuple(layers), space)


@dataclass(frozen=True)
class Stream:
    """The stream of a user's events."""

    arrivals: tuple[Event, ...]  # in order of arrival
    last_entry: bytes  # id of the last entry
    history: tuple[Event, ...]  # the arrivals, merged


@dataclass(frozen=True)
class UserState:
    """State of one user, read in one round trip."""

    history: tuple[Event, ...]  # oldest first, deduplicated, at most HISTORY_LIMIT
    record: PrefixRecord | None  # the newest valid one of the live layers
    skipped: tuple[Skipped, ...] = ()  # reasons to skip newer layers
    has_lost_history: bool = False  # the key of the history, or an entry in it, is none of ours
    wish: tuple[WishTurn, ...] = ()  # turns of the wish in the store, oldest first
    # For the next read of this user; None if it cannot build on this one.
    records: Records | None = field(default=None, compare=False, repr=False)
    stream: Stream | None = field(default=None, compare=False, repr=False)


def read_commands(
    keys: Keys, user_id: str, layers: Sequence[int], known: UserState | None
) -> list[Command]:
    """Return the commands that read a user; `add_up` takes the replies. Raises InvalidUserId."""
    key = keys.history(user_id)
    gets: list[Command] = [("GET", keys.record(user_id, generation)) for generation in layers]
    gets.append(("GET", keys.wish(user_id)))
    if known is None or known.stream is None:
        return [*gets, ("XREVRANGE", key, "+", "-", "COUNT", STREAM_LIMIT)]
    newer = ("XRANGE", key, known.stream.last_entry, "+", "COUNT", STREAM_LIMIT + 1)
    return [*gets, ("XLEN", key), newer]


def add_up(
    user_id: str,
    layers: Sequence[int],
    space: SidSpace,
    replies: Sequence[Any],
    known: UserState | None,
) -> UserState | None:
    """Return the state from the replies to `read_commands`.

    None if the replies do not continue `known`: then read again without it.
    """
    blobs = tuple(as_bytes(reply) for reply in replies[: len(layers)])
    records = known.records if known is not None else None
    if records is None or not records.holds(space, layers, blobs):
        record, skipped = newest_record(user_id, layers, blobs, space)
        records = Records(space, tuple(layers), blobs, record, skipped)
    if known is None or known.stream is None:
        stream, has_lost_history = _whole(replies[-1])
    else:
        continued = _continue(known.stream, *replies[-2:])
        if continued is None:
            return None
        stream, has_lost_history = continued, False
    return UserState(
        history=stream.history,
        record=records.record,
        skipped=records.skipped,
        has_lost_history=has_lost_history,
        wish=decode_turns(wish) if (wish := as_bytes(replies[len(layers)])) else (),
        records=records,
        stream=None if has_lost_history or not stream.arrivals else stream,
    )


def read_entries(entries: Any) -> tuple[list[Event], bool]:
    """Decode entries of a stream, oldest first; tell also if any of them was no event of ours."""
    if not isinstance(entries, list):
        return [], True
    found = [_read_entry(entry) for entry in entries]
    events = [event for event in found if event is not None]
    return events, len(events) < len(found)


def newest_last(reply: Any) -> Any:
    """Put a reply to XREVRANGE into the order of arrival; return any other reply as it is."""
    return reply[::-1] if isinstance(reply, list) else reply


def sound_entries(reply: Any) -> list[Any]:
    """Return the entries, in a reply to XRANGE or XREVRANGE, that have the form that we write.

    Empty for a reply of another kind.
    """
    return [entry for entry in reply if _is_sound(entry)] if isinstance(reply, list) else []


def _is_sound(entry: Any) -> bool:
    match entry:
        case [bytes() as entry_id, [bytes(), bytes()]]:
            return is_entry_id(entry_id)
    return False


def is_entry_id(entry_id: bytes) -> bool:
    return _ENTRY_ID.fullmatch(entry_id) is not None


def _read_entry(entry: Any) -> Event | None:
    match entry:
        case [bytes(), [bytes() as event_id, bytes() as value]]:
            return decode_event(event_id, value)
    return None


def is_wrong_type(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def as_bytes(reply: Any) -> bytes | None:
    """Return the value in a reply to GET; None without one.

    A key of another type, or a reply altered on the way, gives bytes that do not decode.
    """
    return reply if reply is None or isinstance(reply, bytes) else b""


def _whole(reply: Any) -> tuple[Stream, bool]:
    """Return the stream in a reply to XREVRANGE; tell also if some of it is lost."""
    entries = newest_last(reply)
    events, has_lost_history = read_entries(entries)
    last_entry = entries[-1][0] if events and not has_lost_history else b""
    return Stream(tuple(events), last_entry, merge_events(events)), has_lost_history


def _continue(stream: Stream, count: Any, entries: Any) -> Stream | None:
    """Return the stream with the entries behind its last one.

    None unless the replies continue this stream. count: the reply to XLEN.
    """
    known = entries[0] if isinstance(entries, list) and entries else None
    if not isinstance(known, list) or known[:1] != [stream.last_entry]:
        return None
    if len(entries) > STREAM_LIMIT:
        return None  # there are newer ones still
    newer, has_lost_history = read_entries(entries[1:])
    arrivals = (*stream.arrivals, *newer)[-STREAM_LIMIT:]
    if has_lost_history or min(count, STREAM_LIMIT) != len(arrivals):
        return None
    if not newer:
        return stream
    return Stream(arrivals, entries[-1][0], merge_events(arrivals))
