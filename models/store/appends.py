"""Append events to the histories in Redis, each event once.

An event id that a user has sent within a day adds nothing, in any process: the ids are read before
the write, and if two processes write at the same time, the first entry in the stream counts.
Streams are cut so that this holds: see `events.stream_limit`.

New events also go into the event log, in the same round trip and after the history. In a cluster
the log is in another slot and takes a round trip more. A failure between the two loses an entry of
the log, never one of a history; the nightly archive, which reads histories, has it all the same.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.errors import StoreUnavailable
from models.store.connection import RedisConnection
from models.store.events import (
    DEDUP_LIMIT,
    STREAM_LIMIT,
    Event,
    Fate,
    check_event,
    encode_event,
    is_within_a_day,
    stream_limit,
    tell_fates,
)
from models.store.log_stream import log_command
from models.store.user_state import read_entries, sound_entries
from models.store.wire import Command

logger = logging.getLogger(__name__)

Entries = list[Any]  # [id, [event id, value]], oldest first


class _Outcome(NamedTuple):
    """Outcome of the events appended for one user."""

    fates: list[Fate]  # of each event, as of the read
    written: list[bytes]  # entry id of each new event
    since: Entries  # entries since the read, those of other processes too; empty unless checked


class RedisAppends(RedisConnection):
    _is_log_failing = False

    async def append_events(self, user_id: str, events: Sequence[Event]) -> int:
        return await self.append_histories({user_id: events})

    async def append_histories(
        self, histories: Mapping[str, Sequence[Event]], *, is_logged: bool = True
    ) -> int:
        """Append events; if two processes append one event at the same time, both count it."""
        outcomes = await self._append(histories, is_logged=is_logged)
        return sum(len(outcome.written) for outcome in outcomes.values())

    async def append_each(self, histories: Mapping[str, Sequence[Event]]) -> dict[str, list[Fate]]:
        outcomes = await self._append(histories, is_checked=True)
        for user_id, (fates, written, since) in outcomes.items():
            firsts = _first_entries(since)
            left = iter(written)
            for at, event in enumerate(histories[user_id]):
                if fates[at] is Fate.NEW and firsts.get(event.event_id.encode()) != next(left):
                    fates[at] = Fate.REPEATED  # another process was faster
        return {user_id: outcome.fates for user_id, outcome in outcomes.items()}

    async def _append(
        self,
        histories: Mapping[str, Sequence[Event]],
        *,
        is_checked: bool = False,
        is_logged: bool = True,
    ) -> dict[str, _Outcome]:
        """Append the new events of each user; `is_checked` to read the entries since the read."""
        for events in histories.values():
            for event in events:
                check_event(event)
        kept = await self._read_kept(list(histories))
        commands: list[Command] = []
        log: list[Command] = []
        fates, now_ms = {}, _now_ms()
        for user_id, events in histories.items():
            entries, key = kept[user_id], self._keys.history(user_id)
            fates[user_id] = tell_fates(read_entries(entries)[0], events)
            num_new = fates[user_id].count(Fate.NEW)
            limit = stream_limit(_arrivals(entries), num_new, now_ms=now_ms)
            for event, fate in zip(events, fates[user_id], strict=True):
                if fate is Fate.NEW:
                    field, value = encode_event(event)
                    commands.append(("XADD", key, "MAXLEN", limit, "*", field, value))
                    if is_logged and self._log_limit:
                        log.append(log_command(self._keys.log, user_id, event, self._log_limit))
            if is_checked:
                since = b"(" + entries[-1][0] if entries else b"-"
                commands.append(("XRANGE", key, since, "+"))
        replies = iter(await self._write(commands, log, is_one_key=len(histories) == 1))
        outcomes = {}
        for user_id, of_user in fates.items():
            written = [next(replies) for fate in of_user if fate is Fate.NEW]
            since = sound_entries(next(replies)) if is_checked else []
            outcomes[user_id] = _Outcome(of_user, written, since)
        return outcomes

    async def _write(
        self, commands: Sequence[Command], log: Sequence[Command], *, is_one_key: bool
    ) -> list[Any]:
        """Return the replies to `commands`. Raises StoreUnavailable if any of them is an error.

        An error of the log is no error of the append, since the history has the event.
        """
        beside = () if self.is_cluster else log
        sent = [*commands, *beside]
        replies = await self._exchange(sent, is_one_key=is_one_key) if sent else []
        logged = replies[len(commands) :]
        with self._translated():
            for reply in replies[: len(commands)]:
                if isinstance(reply, Exception):
                    raise reply
        if self.is_cluster and log:
            try:
                logged = await self._exchange(log, is_one_key=True)
            except StoreUnavailable as exc:
                logged = [exc]
        if logged:
            self._watch_log([reply for reply in logged if isinstance(reply, Exception)])
        return replies[: len(commands)]

    def _watch_log(self, failures: Sequence[Exception]) -> None:
        """Log the first failure of the event log, and its return."""
        if failures and not self._is_log_failing:
            logger.warning("events are stored but not logged for the learner: %s", failures[0])
        elif self._is_log_failing and not failures:
            logger.info("events are logged for the learner again")
        self._is_log_failing = bool(failures)

    async def _read_kept(self, user_ids: Sequence[str]) -> dict[str, Entries]:
        """Return the newest STREAM_LIMIT entries of each user, and older ones of the last day."""
        ranges = [(user_id, "+", STREAM_LIMIT) for user_id in user_ids]
        kept = dict(zip(user_ids, await self._read_back(ranges), strict=True))
        now_ms = _now_ms()
        busy = [
            (user_id, b"(" + entries[0][0], DEDUP_LIMIT - STREAM_LIMIT)
            for user_id, entries in kept.items()
            if len(entries) == STREAM_LIMIT
            and is_within_a_day(_arrivals(entries[:1])[0], now_ms=now_ms)
        ]
        for (user_id, _, _), older in zip(busy, await self._read_back(busy), strict=True):
            kept[user_id] = [*older, *kept[user_id]]
        return kept

    async def _read_back(self, ranges: Sequence[tuple[str, str | bytes, int]]) -> list[Entries]:
        """Return the last `count` entries up to `end`, oldest first, for each (id, end, count)."""
        if not ranges:
            return []
        commands: list[Command] = [
            ("XREVRANGE", self._keys.history(user_id), end, "-", "COUNT", count)
            for user_id, end, count in ranges
        ]
        replies = await self._ask_batch(commands, is_one_key=len(ranges) == 1)
        return [sound_entries(reply)[::-1] for reply in replies]


def _first_entries(entries: Entries) -> dict[bytes, bytes]:
    """Return event id -> id of the first entry that has it."""
    found: dict[bytes, bytes] = {}
    for entry, pair in entries:
        found.setdefault(pair[0], entry)
    return found


def _arrivals(entries: Entries) -> list[int]:
    """Return the arrivals of entries, in unix milliseconds on the store's clock."""
    return [int(entry.partition(b"-")[0]) for entry, _ in entries]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
