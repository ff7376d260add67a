"""Streams through which the service asks workers to think about a user or to erase one.

    ta:requests   users to think about soon
    ta:erasures   users to erase; an entry stays until nothing of the user is left
    ta:erased     hashes of recently erased users, so that every process drops its copies
    ta:workers    heartbeats of workers; the last one of a worker that ends says so

Workers share a stream as one consumer group. An entry stays with the group until it is settled:
if a worker is killed, another one claims its entries. Knows nothing of thinking or erasing.
"""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from models.errors import InvalidInput, StoreUnavailable
from models.store.connection import RedisConnection
from models.store.contract import Erasure, Erasures, Request
from models.store.events import check_user_id
from models.store.records import hash_user
from models.store.user_state import sound_entries
from models.store.wish_turns import MAX_INSTRUCTION_CHARS

MAX_ERASURES = 10_000  # waiting ones; none may be dropped, so further ones are refused

_MAX_REQUESTS = 100_000  # waiting ones; the oldest are dropped: the night thinks about every user
_MAX_ERASED = 10_000
_BEGINNING = "0-0"
_MARK = re.compile(rb"[0-9a-f]{16}")
_GROUP = "workers"
_ALIVE_MS = 120_000  # a worker without a heartbeat for longer is gone; it has none while it thinks
_MAX_BEATS = 4096
_ALIVE, _LEFT = b"alive", b"left"


class Taken(NamedTuple):
    """A stream entry that was delivered to a worker."""

    entry: str  # its id in the stream
    fields: dict[bytes, bytes]
    num_tries: int = 1  # deliveries so far, this one included


class RedisGroups(RedisConnection):
    """Consumer groups over streams."""

    async def _take(
        self, key: str, worker: str, *, count: int, wait_ms: int | None, idle_ms: int
    ) -> list[Taken]:
        """Return entries that another worker has held for `idle_ms`; without any, new ones.

        wait_ms: the longest wait for new entries; None not to wait.
        """
        try:
            left = await self._claim(key, worker, count=count, idle_ms=idle_ms)
            return left or await self._read_new(key, worker, count=count, wait_ms=wait_ms)
        except StoreUnavailable as exc:
            if not _says(exc, "NOGROUP"):
                raise
        await self._make_group(key)
        return await self._read_new(key, worker, count=count, wait_ms=wait_ms)

    async def _settle(self, key: str, entries: Sequence[str]) -> None:
        if not entries:
            return
        pipeline = self._pipeline()
        pipeline.execute_command("XACK", key, _GROUP, *entries)
        pipeline.execute_command("XDEL", key, *entries)
        await self._run(pipeline)

    async def _claim(self, key: str, worker: str, *, count: int, idle_ms: int) -> list[Taken]:
        _, entries, *_ = await self._call(
            "XAUTOCLAIM", key, _GROUP, worker, idle_ms, "0", "COUNT", count
        )
        return [
            taken._replace(num_tries=await self._num_tries(key, taken.entry))
            for taken in _read_entries(entries)
        ]

    async def _num_tries(self, key: str, entry: str) -> int:
        (reply,) = await self._ask(("XPENDING", key, _GROUP, entry, entry, 1))
        return int(reply[0][3]) if reply else 1

    async def _read_new(
        self, key: str, worker: str, *, count: int, wait_ms: int | None
    ) -> list[Taken]:
        waiting = () if wait_ms is None else ("BLOCK", wait_ms)
        reply = await self._call(
            *("XREADGROUP", "GROUP", _GROUP, worker, "COUNT", count, *waiting),
            *("STREAMS", key, ">"),
        )
        streams = list(reply.items()) if isinstance(reply, dict) else list(reply or ())
        return [taken for _, entries in streams for taken in _read_entries(entries)]

    async def _make_group(self, key: str) -> None:
        try:
            await self._call("XGROUP CREATE", key, _GROUP, "0", "MKSTREAM")
        except StoreUnavailable as exc:
            if not _says(exc, "BUSYGROUP"):  # another worker has just made it
                raise


class RedisRequests(RedisGroups):
    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        check_request(user_id, instruction)
        fields = {"user": user_id, "asked_ms": time.time_ns() // 1_000_000}
        if instruction:
            fields["instruction"] = instruction.encode("utf-8", "replace").decode()
        flat = [part for pair in fields.items() for part in pair]
        await self._ask(("XADD", self._keys.requests, "MAXLEN", "~", _MAX_REQUESTS, "*", *flat))

    async def take_requests(
        self, worker: str, *, count: int, wait_ms: int, idle_ms: int
    ) -> list[Request]:
        taken = await self._take(
            self._keys.requests, worker, count=count, wait_ms=wait_ms, idle_ms=idle_ms
        )
        return [_read_request(each) for each in taken]

    async def count_requests(self) -> int:
        (reply,) = await self._ask(("XLEN", self._keys.requests))
        return int(reply)

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        await self._settle(self._keys.requests, [request.entry for request in requests])

    async def beat(self, worker: str, *, is_leaving: bool = False) -> None:
        state = _LEFT if is_leaving else _ALIVE
        key = self._keys.workers
        await self._ask(("XADD", key, "MAXLEN", "~", _MAX_BEATS, "*", worker, state))

    async def count_workers(self) -> int:
        since = str(time.time_ns() // 1_000_000 - _ALIVE_MS)
        key = self._keys.workers
        (reply,) = await self._ask(("XREVRANGE", key, "+", since, "COUNT", _MAX_BEATS))
        newest: dict[bytes, bytes] = {}
        for _, (worker, state) in sound_entries(reply):
            newest.setdefault(worker, state)
        return list(newest.values()).count(_ALIVE)


class RedisErasures(RedisGroups):
    async def request_erasure(self, user_id: str) -> None:
        check_user_id(user_id)
        (num_waiting,) = await self._ask(("XLEN", self._keys.erasures))
        check_room(num_waiting)
        await self._ask(("XADD", self._keys.erasures, "*", "user", user_id))

    async def read_erasures(self, last: str | None) -> Erasures:
        (waiting,) = await self._ask(
            ("XRANGE", self._keys.erasures, "-", "+", "COUNT", MAX_ERASURES)
        )
        users = [pair[1] for _, pair in sound_entries(waiting)]
        found = frozenset(user.decode(errors="replace") for user in users)
        if last is None:
            (newest,) = await self._ask(("XREVRANGE", self._keys.erased, "+", "-", "COUNT", 1))
            begun = sound_entries(newest)
            return Erasures(found, frozenset(), begun[0][0].decode() if begun else _BEGINNING)
        (reply,) = await self._ask(("XRANGE", self._keys.erased, f"({last}", "+"))
        erased = sound_entries(reply)
        marks = [pair[1] for _, pair in erased if _MARK.fullmatch(pair[1])]
        hashes = frozenset(int(mark, 16) for mark in marks)
        return Erasures(found, hashes, erased[-1][0].decode() if erased else last)

    async def take_erasures(self, worker: str, *, count: int, idle_ms: int) -> list[Erasure]:
        (num_waiting,) = await self._ask(("XLEN", self._keys.erasures))
        if not num_waiting:
            return []  # without making a key in a store that never had an erasure
        taken = await self._take(
            self._keys.erasures, worker, count=count, wait_ms=None, idle_ms=idle_ms
        )
        return [
            Erasure(each.entry, each.fields.get(b"user", b"").decode(errors="replace"))
            for each in taken
        ]

    async def settle_erasures(self, erasures: Sequence[Erasure]) -> None:
        for erasure in erasures:
            fields = ("user", mark_of(erasure.user_id))
            await self._ask(("XADD", self._keys.erased, "MAXLEN", "~", _MAX_ERASED, "*", *fields))
        await self._settle(self._keys.erasures, [erasure.entry for erasure in erasures])


def check_request(user_id: str, instruction: str | None) -> None:
    """Raises InvalidUserId or InvalidInput."""
    check_user_id(user_id)
    if instruction is not None and len(instruction) > MAX_INSTRUCTION_CHARS:
        raise InvalidInput(
            f"an instruction of {len(instruction)} characters, "
            f"expected at most {MAX_INSTRUCTION_CHARS}"
        )


def check_room(num_waiting: int) -> None:
    """Raises StoreUnavailable if no further erasure may wait."""
    if num_waiting >= MAX_ERASURES:
        raise StoreUnavailable(f"{num_waiting} users wait to be erased: is a worker running?")


def mark_of(user_id: str) -> str:
    """Return the hash that stands for an erased user in `ta:erased`."""
    return f"{hash_user(user_id):016x}"


def _says(failure: StoreUnavailable, code: str) -> bool:
    cause = failure.__cause__
    return isinstance(cause, ResponseError) and code in str(cause)


def _read_entries(entries: Any) -> list[Taken]:
    return [
        Taken(
            entry.decode(),
            pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True)),
        )
        for entry, pairs in entries
    ]


def _read_request(taken: Taken) -> Request:
    """Read a request; the user id is empty if the entry is none of ours, so that it is settled."""
    user, instruction = taken.fields.get(b"user", b""), taken.fields.get(b"instruction")
    return Request(
        taken.entry,
        user.decode(errors="replace"),
        instruction.decode(errors="replace") if instruction else None,
        taken.num_tries,
    )
