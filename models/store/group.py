"""A Redis stream that workers share as one consumer group.

An entry stays with the group until it is settled, so that one whose worker was killed is claimed by
another. Knows nothing of what the entries ask for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from models.errors import StoreUnavailable
from models.store.connection import RedisConnection

_GROUP = "workers"


class Taken(NamedTuple):
    """entry: its id in the stream. num_tries: how often a worker was given it, this time too."""

    entry: str
    fields: dict[bytes, bytes]
    num_tries: int = 1


class RedisGroups(RedisConnection):
    async def _take(
        self, key: str, worker: str, *, count: int, wait_ms: int | None, idle_ms: int
    ) -> list[Taken]:
        """First what another worker has had for `idle_ms`, else new entries, waited for at most
        `wait_ms`; None: not at all."""
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
