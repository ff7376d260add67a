"""Users to erase: asked for by the service, which may only append, and carried out by a worker.

    ta:erasures   users who wait, an entry each; settled once nothing of the user is left
    ta:erased     hashes of those who were erased lately, so that every process forgets its copies

Knows nothing of how a user is erased.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from models.errors import StoreUnavailable
from models.store.events import check_user_id
from models.store.group import RedisGroups
from models.store.keys import ERASED_KEY, ERASURES_KEY
from models.store.records import hash_user
from models.store.user_state import sound_entries

MAX_WAITING = 10_000  # none may give way, so more are refused
_MAX_ERASED = 10_000
_BEGINNING = "0-0"
_MARK = re.compile(rb"[0-9a-f]{16}")


class Erasure(NamedTuple):
    """entry: its id in the stream."""

    entry: str
    user_id: str


class Erasures(NamedTuple):
    """waiting: user ids. erased: hashes of users, since the last look. last: where it ended."""

    waiting: frozenset[str]
    erased: frozenset[int]
    last: str


class ErasureRequests(Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses."""

    async def request_erasure(self, user_id: str) -> None:
        """Have a worker erase this user. Raises InvalidUserId; StoreUnavailable where MAX_WAITING
        wait already."""
        ...

    async def read_erasures(self, last: str | None) -> Erasures:
        """Who waits, and who was erased since the look that ended with `last`, if there was one."""
        ...


class ErasureQueue(ErasureRequests, Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses."""

    async def take_erasures(self, worker: str, *, count: int, idle_ms: int) -> list[Erasure]:
        """Those for this worker: first such that another has had for `idle_ms`, else new ones."""
        ...

    async def settle_erasures(self, erasures: Sequence[Erasure]) -> None:
        """Nothing of these users is left."""
        ...


class RedisErasures(RedisGroups):
    async def request_erasure(self, user_id: str) -> None:
        check_user_id(user_id)
        (num_waiting,) = await self._ask(("XLEN", ERASURES_KEY))
        check_room(num_waiting)
        await self._ask(("XADD", ERASURES_KEY, "*", "user", user_id))

    async def read_erasures(self, last: str | None) -> Erasures:
        (waiting,) = await self._ask(("XRANGE", ERASURES_KEY, "-", "+", "COUNT", MAX_WAITING))
        users = [pair[1] for _, pair in sound_entries(waiting)]
        found = frozenset(user.decode(errors="replace") for user in users)
        if last is None:
            (newest,) = await self._ask(("XREVRANGE", ERASED_KEY, "+", "-", "COUNT", 1))
            begun = sound_entries(newest)
            return Erasures(found, frozenset(), begun[0][0].decode() if begun else _BEGINNING)
        (reply,) = await self._ask(("XRANGE", ERASED_KEY, f"({last}", "+"))
        erased = sound_entries(reply)
        marks = [pair[1] for _, pair in erased if _MARK.fullmatch(pair[1])]
        hashes = frozenset(int(mark, 16) for mark in marks)
        return Erasures(found, hashes, erased[-1][0].decode() if erased else last)

    async def take_erasures(self, worker: str, *, count: int, idle_ms: int) -> list[Erasure]:
        (num_waiting,) = await self._ask(("XLEN", ERASURES_KEY))
        if not num_waiting:
            return []  # and no key is made where nobody ever asked
        taken = await self._take(ERASURES_KEY, worker, count=count, wait_ms=None, idle_ms=idle_ms)
        return [
            Erasure(each.entry, each.fields.get(b"user", b"").decode(errors="replace"))
            for each in taken
        ]

    async def settle_erasures(self, erasures: Sequence[Erasure]) -> None:
        for erasure in erasures:
            told = ("user", mark_of(erasure.user_id))
            await self._ask(("XADD", ERASED_KEY, "MAXLEN", "~", _MAX_ERASED, "*", *told))
        await self._settle(ERASURES_KEY, [erasure.entry for erasure in erasures])


def check_room(num_waiting: int) -> None:
    """Raises StoreUnavailable."""
    if num_waiting >= MAX_WAITING:
        raise StoreUnavailable(f"{num_waiting} users wait to be erased: is a worker running?")


def mark_of(user_id: str) -> str:
    """What is left of a user in the stream of the erased."""
    return f"{hash_user(user_id):016x}"
