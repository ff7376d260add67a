"""Users to think about soon: a stream that workers share.

Knows nothing of who asks or of what thinking is.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from models.errors import InvalidInput
from models.store.events import check_user_id
from models.store.group import RedisGroups, Taken
from models.store.keys import REQUESTS_KEY

MAX_INSTRUCTION_CHARS = 500

_MAX_WAITING = 100_000  # older requests give way: the night comes for everybody


class Request(NamedTuple):
    """entry: its id in the stream. num_tries: how often a worker was given it, this time too."""

    entry: str
    user_id: str
    instruction: str | None = None
    num_tries: int = 1


class ThinkRequests(Protocol):
    """Raises StoreUnavailable when the store does not answer in time or refuses."""

    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        """Have a worker think about this user within seconds, should one be running.

        Raises InvalidUserId, and InvalidInput for an instruction that is too long.
        """
        ...


class RequestQueue(ThinkRequests, Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses."""

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


class RedisRequests(RedisGroups):
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
        taken = await self._take(
            REQUESTS_KEY, worker, count=count, wait_ms=wait_ms, idle_ms=idle_ms
        )
        return [_read_request(each) for each in taken]

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        await self._settle(REQUESTS_KEY, [request.entry for request in requests])


def _read_request(taken: Taken) -> Request:
    """One that is no request of ours gets an empty user, so that it is settled as such."""
    user, instruction = taken.fields.get(b"user", b""), taken.fields.get(b"instruction")
    return Request(
        taken.entry,
        user.decode(errors="replace"),
        instruction.decode(errors="replace") if instruction else None,
        taken.num_tries,
    )
