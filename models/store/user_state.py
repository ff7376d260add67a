"""One user as a store holds them: what to ask Redis for, and what its replies add up to.

A later read names what an earlier one saw and fetches and decodes only what came since. That is
checked, not assumed: where the stream is not the old one with newer entries behind it, the replies
add up to nothing and the whole is read. Pure: knows no server.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from models.catalog.sid import SidSpace
from models.store.events import STREAM_LIMIT, Event, decode_event, merge_events
from models.store.keys import Skipped, history_key, newest_record, record_key
from models.store.records import PrefixRecord
from models.store.wire import Command

_ENTRY_ID = re.compile(rb"\d+-\d+")


@dataclass(frozen=True)
class Records:
    """The bytes of some layers' records (one a layer, newest first) and what they say."""

    space: SidSpace
    layers: tuple[int, ...]
    blobs: tuple[bytes | None, ...]
    record: PrefixRecord | None
    skipped: tuple[Skipped, ...]

    def holds(
        self, space: SidSpace, layers: Sequence[int], blobs: tuple[bytes | None, ...]
    ) -> bool:
        return (self.blobs, self.layers, self.space) == (blobs, tuple(layers), space)


@dataclass(frozen=True)
class Stream:
    """A stream's events in order of arrival, the id of its last entry, and their history."""

    arrivals: tuple[Event, ...]
    last_entry: bytes
    history: tuple[Event, ...]


@dataclass(frozen=True)
class UserState:
    """One user as read in one round trip.

    history: oldest first, deduplicated, at most HISTORY_LIMIT. record: the newest valid one of the
    live layers. skipped: why newer layers were passed over. has_lost_history: the history's key
    holds something else, or some of its entries do. records, stream: what was read, for the next
    read of this user; None where there is nothing that a next read could build on.
    """

    history: tuple[Event, ...]
    record: PrefixRecord | None
    skipped: tuple[Skipped, ...] = ()
    has_lost_history: bool = False
    records: Records | None = field(default=None, compare=False, repr=False)
    stream: Stream | None = field(default=None, compare=False, repr=False)


def read_commands(user_id: str, layers: Sequence[int], known: UserState | None) -> list[Command]:
    """Raises InvalidUserId."""
    key = history_key(user_id)
    gets: list[Command] = [("GET", record_key(user_id, generation)) for generation in layers]
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
    """The state in the replies to `read_commands`; None when the user has to be read as a whole."""
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
        records=records,
        stream=None if has_lost_history or not stream.arrivals else stream,
    )


def read_entries(entries: Any) -> tuple[list[Event], bool]:
    """Entries of a stream, oldest first, as events; whether any was not one event of ours."""
    if not isinstance(entries, list):
        return [], True
    found = [_read_entry(entry) for entry in entries]
    events = [event for event in found if event is not None]
    return events, len(events) < len(found)


def newest_last(reply: Any) -> Any:
    """A reply to XREVRANGE in the order of arrival; what is no list stays as it is."""
    return reply[::-1] if isinstance(reply, list) else reply


def sound_entries(reply: Any) -> list[Any]:
    """Those entries of a reply to XRANGE or XREVRANGE that are of the form that we write, with an
    id of digits; a reply of another kind holds none."""
    return [entry for entry in reply if _is_sound(entry)] if isinstance(reply, list) else []


def _is_sound(entry: Any) -> bool:
    match entry:
        case [bytes() as entry_id, [bytes(), bytes()]]:
            return _ENTRY_ID.fullmatch(entry_id) is not None
    return False


def _read_entry(entry: Any) -> Event | None:
    match entry:
        case [bytes(), [bytes() as event_id, bytes() as value]]:
            return decode_event(event_id, value)
    return None


def is_wrong_type(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def as_bytes(reply: Any) -> bytes | None:
    """A value as read; a key of the wrong type, or a reply of another kind, which one wrong byte
    on the way makes of it, reads as bytes that decode to nothing."""
    return reply if reply is None or isinstance(reply, bytes) else b""


def _whole(reply: Any) -> tuple[Stream, bool]:
    """The stream in a reply to XREVRANGE; whether some of it is lost."""
    entries = newest_last(reply)
    events, has_lost_history = read_entries(entries)
    last_entry = entries[-1][0] if events and not has_lost_history else b""
    return Stream(tuple(events), last_entry, merge_events(events)), has_lost_history


def _continue(stream: Stream, count: Any, entries: Any) -> Stream | None:
    """The stream with what came behind its last entry; None unless it is the old one continued."""
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
