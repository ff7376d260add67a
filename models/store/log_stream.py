"""The event log: new events of all users in order of arrival, for a learner that follows them.

    ta:log   one entry an event: user, event (its id), value as in the user's history

The stream keeps about the newest `log_limit` entries. An event may come twice: two processes may
append it at the same time, and a client may repeat it after an error. Readers drop it by its id.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from models.store.connection import RedisConnection
from models.store.contract import BEGINNING, Logged, LogPage, order_of
from models.store.events import Event, decode_event, encode_event
from models.store.user_state import is_entry_id, is_wrong_type
from models.store.wire import Command

_SCAN_COUNT = 2000


class _Extent(NamedTuple):
    """Extent of a stream, from XINFO STREAM."""

    first: str | None  # id of the oldest entry; None without entries
    num_added: int  # since the stream was made
    num_held: int
    last_deleted: str  # the greatest id that was deleted by itself, not trimmed


class RedisLog(RedisConnection):
    async def read_log(self, after: str, count: int) -> LogPage:
        start = "-" if after == BEGINNING else after
        (reply,) = await self._ask(("XRANGE", self._keys.log, start, "+", "COUNT", count + 1))
        entries = [] if is_wrong_type(reply) else list(reply)
        is_there = bool(entries) and entries[0][0].decode() == after
        entries = entries[is_there:][:count]
        is_cut = not is_there and bool(entries) and await self._has_gap(after)
        last = entries[-1][0].decode() if entries else after
        found = [logged for entry in entries if (logged := _read_logged(entry)) is not None]
        return LogPage(tuple(found), last, is_cut)

    async def log_end(self) -> str:
        (reply,) = await self._ask(("XREVRANGE", self._keys.log, "+", "-", "COUNT", 1))
        return BEGINNING if is_wrong_type(reply) or not reply else reply[0][0].decode()

    async def _has_gap(self, after: str) -> bool:
        """Tell if entries behind `after` were trimmed, or lost with an older stream."""
        (reply,) = await self._ask(("XINFO", "STREAM", self._keys.log))
        extent = _read_extent(reply)
        if extent.first is None or order_of(extent.first) < order_of(after):
            return False
        if extent.num_added > self._log_limit:
            return after != BEGINNING or extent.num_added > extent.num_held
        return after != BEGINNING and order_of(extent.last_deleted) < order_of(after)

    async def _forget_logged(self, user_id: str) -> None:
        """Delete the entries of a user."""
        start, named = "-", user_id.encode()
        while True:
            (reply,) = await self._ask(("XRANGE", self._keys.log, start, "+", "COUNT", _SCAN_COUNT))
            entries = [] if is_wrong_type(reply) else reply
            if gone := [entry for entry, pairs in entries if pairs[1:2] == [named]]:
                await self._ask(("XDEL", self._keys.log, *gone))
            if len(entries) < _SCAN_COUNT:
                return
            start = f"({entries[-1][0].decode()}"


def log_command(key: str, user_id: str, event: Event, limit: int) -> Command:
    """Return the command that logs an event."""
    event_id, value = encode_event(event)
    fields = ("user", user_id.encode(), "event", event_id, "value", value)
    return ("XADD", key, "MAXLEN", "~", limit, "*", *fields)


def _read_logged(entry: Any) -> Logged | None:
    match entry:
        case [
            bytes() as entry_id,
            [b"user", bytes() as user, b"event", bytes() as event_id, b"value", bytes() as value],
        ] if is_entry_id(entry_id):
            if (event := decode_event(event_id, value)) is not None:
                return Logged(entry_id.decode(), user.decode(errors="replace"), event)
    return None


def _read_extent(reply: Sequence[Any]) -> _Extent:
    facts = dict(zip(reply[::2], reply[1::2], strict=True))
    first = facts.get(b"first-entry")
    return _Extent(
        first=first[0].decode() if first else None,
        num_added=int(facts.get(b"entries-added", 0)),
        num_held=int(facts[b"length"]),
        last_deleted=facts.get(b"max-deleted-entry-id", b"0-0").decode(),
    )
