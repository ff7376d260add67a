"""Users to think about soon: a Redis stream that workers share as one consumer group.

A request stays with the group until it is settled, so that one whose worker was killed is claimed
by another. Knows nothing of who asks or of what thinking is.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from redis.exceptions import ResponseError

from models.connection import RedisConnection
from models.errors import InvalidInput, StoreUnavailable
from models.events import check_user_id
from models.layout import REQUESTS_KEY

MAX_INSTRUCTION_CHARS = 500

_GROUP = "workers"
_MAX_WAITING = 100_000  # older requests give way: the night comes for everybody


class Request(NamedTuple):
    """entry: its id in the stream. num_tries: how often a worker was given it, this time too."""

    entry: str
    user_id: str
    instruction: str | None = None
    num_tries: int = 1


class RequestQueue(Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses."""

    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        """Have a worker think about this user within seconds, should one be running.

        Raises InvalidUserId, and InvalidInput for an instruction that is too long.
        """
        ...

    async def take_requests(
        self, worker: str, *, count: int, wait_ms: int, idle_ms: int
    ) -> list[Request]:
        """Requests for this worker: first those that another has had for `idle_ms`, else new ones,
        waited for at most `wait_ms`."""
        ...

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        """What was asked is done, or never will be."""
        ...


def check_request(user_id: str, instruction: str | None) -> None:
    """Raises InvalidUserId or InvalidInput."""
    check_user_id(user_id)
    if instruction is not None and len(instruction) > MAX_INSTRUCTION_CHARS:
        raise InvalidInput(
            f"an instruction of {len(instruction)} characters, "
            f"expected at most {MAX_INSTRUCTION_CHARS}"
        )


class RedisRequests(RedisConnection):
    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        check_request(user_id, instruction)
        fields = {"user": user_id, "asked_ms": time.time_ns() // 1_000_000}
        if instruction:
            fields["instruction"] = instruction.encode("utf-8", "replace").decode()
        flat = [part for pair in fields.items() for part in pair]
        await self._ask(("XADD", REQUESTS_KEY, "MAXLEN", "~", _MAX_WAITING, "*", *flat))

    async def take_requests(
        self, worker: str, *, count: int, wait_ms: int, idle_ms: int
    ) -> list[Request]:
        try:
            left = await self._claim(worker, count=count, idle_ms=idle_ms)
            return left or await self._read_new(worker, count=count, wait_ms=wait_ms)
        except StoreUnavailable as exc:
            if not _says(exc, "NOGROUP"):
                raise
        await self._make_group()
        return await self._read_new(worker, count=count, wait_ms=wait_ms)

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        entries = [request.entry for request in requests]
        pipeline = self._pipeline()
        pipeline.execute_command("XACK", REQUESTS_KEY, _GROUP, *entries)
        pipeline.execute_command("XDEL", REQUESTS_KEY, *entries)
        await self._run(pipeline)

    async def _claim(self, worker: str, *, count: int, idle_ms: int) -> list[Request]:
        _, entries, *_ = await self._call(
            "XAUTOCLAIM", REQUESTS_KEY, _GROUP, worker, idle_ms, "0", "COUNT", count
        )
        return [
            request._replace(num_tries=await self._num_tries(request.entry))
            for request in _read_requests(entries)
        ]

    async def _num_tries(self, entry: str) -> int:
        command = ("XPENDING", REQUESTS_KEY, _GROUP, entry, entry, 1)
        (reply,) = await self._ask(command)
        return int(reply[0][3]) if reply else 1

    async def _read_new(self, worker: str, *, count: int, wait_ms: int) -> list[Request]:
        reply = await self._call(
            *("XREADGROUP", "GROUP", _GROUP, worker, "COUNT", count, "BLOCK", wait_ms),
            *("STREAMS", REQUESTS_KEY, ">"),
        )
        streams = list(reply.items()) if isinstance(reply, dict) else list(reply or ())
        return [request for _, entries in streams for request in _read_requests(entries)]

    async def _make_group(self) -> None:
        try:
            await self._call("XGROUP CREATE", REQUESTS_KEY, _GROUP, "0", "MKSTREAM")
        except StoreUnavailable as exc:
            if not _says(exc, "BUSYGROUP"):  # another worker has just made it
                raise


def _says(failure: StoreUnavailable, code: str) -> bool:
    cause = failure.__cause__
    return isinstance(cause, ResponseError) and code in str(cause)


def _read_requests(entries: Any) -> list[Request]:
    """Entries that are no requests of ours get an empty user, so that they are settled as such."""
    found = []
    for entry, pairs in entries:
        fields = (
            pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))
        )
        user, instruction = fields.get(b"user", b""), fields.get(b"instruction")
        found.append(
            Request(
                entry.decode(),
                user.decode(errors="replace"),
                instruction.decode(errors="replace") if instruction else None,
            )
        )
    return found
