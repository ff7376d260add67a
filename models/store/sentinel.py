"""The wire to whoever is master now, by what sentinels say.

While connected nobody is asked. A lost connection, a silent master or one that has become a replica
makes the next request wait for the sentinels' word, as long as its own patience lasts. Knows
nothing of keys.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError, ResponseError

from models.store.wire import Address, Command, Wire

logger = logging.getLogger(__name__)


class SentinelWire:
    """As `Wire`. `base` has what the master wants: TLS, AUTH, SELECT; its place is the sentinels'
    to say."""

    def __init__(
        self, sentinels: Sequence[Address], master: str, base: Address, timeout_s: float
    ) -> None:
        self._sentinels = [Wire(address, timeout_s) for address in sentinels]
        self._master = master
        self._base = base
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._next: Wire | None = None  # to whom the sentinels name, until it says so itself
        self._next_place: tuple[str, int] | None = None
        self._finding: asyncio.Task[Wire] | None = None

    async def ask(self, *commands: Command) -> list[Any]:
        """As `Wire.ask`; also raises OSError where no sentinel knows of a master that is one."""
        wire = self._wire
        if wire is None or not wire.is_open:
            wire = await asyncio.shield(self._find_again())
        replies = await wire.ask(*commands)
        if any(_is_replica(reply) for reply in replies):
            wire.reset()  # so that the next one asks the sentinels
        return replies

    def reset(self) -> None:
        if self._wire is not None:
            self._wire.reset()

    async def close(self) -> None:
        if self._finding is not None:
            self._finding.cancel()
        for wire in (*self._sentinels, self._wire, self._next):
            if wire is not None:
                await wire.close()

    def _find_again(self) -> "asyncio.Task[Wire]":
        """Find the master, unless that is under way."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find())
            self._finding.add_done_callback(_look_at)
        return self._finding

    async def _find(self) -> Wire:
        """Ask the sentinels one by one. Raises the last one's failure."""
        failure: Exception = ConnectionRefusedError("no sentinel answers")
        for sentinel in list(self._sentinels):
            try:
                place = await self._place_by(sentinel)
                wire = await self._connect(place)
            except (OSError, TimeoutError, RedisError) as exc:
                failure = exc
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)  # whoever knew is asked first
            return wire
        raise failure

    async def _place_by(self, sentinel: Wire) -> tuple[str, int]:
        (reply,) = await sentinel.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master))
        if isinstance(reply, ResponseError):
            raise reply
        if reply is None:
            raise ConnectionRefusedError(f"a sentinel knows no master {self._master}")
        return reply[0].decode(), int(reply[1])

    async def _connect(self, place: tuple[str, int]) -> Wire:
        """To a master that says itself that it is one: sentinels learn of a failover by and by."""
        wire = await self._wire_to(place)
        (role,) = await wire.ask(("ROLE",))
        if isinstance(role, ResponseError):
            raise role
        if role[0] != b"master":
            wire.reset()
            raise ConnectionRefusedError(f"{place[0]}:{place[1]} is no master any more")
        if wire is not self._wire:
            logger.info("the master of %s is %s:%d", self._master, *place)
            old, self._wire = self._wire, wire
            if old is not None:
                await old.close()
        return wire

    async def _wire_to(self, place: tuple[str, int]) -> Wire:
        """The one that was made for this place last time, which may be connecting still."""
        if self._next is not None and self._next is not self._wire and place != self._next_place:
            await self._next.close()
        if self._next is None or place != self._next_place:
            address = replace(self._base, host=place[0], port=place[1])
            self._next, self._next_place = Wire(address, self._timeout_s), place
        return self._next


def _is_replica(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("READONLY")


def _look_at(finding: "asyncio.Task[Wire]") -> None:
    """Nobody may be waiting any more for how it ended."""
    if not finding.cancelled() and (failure := finding.exception()) is not None:
        logger.debug("no master found (%s)", type(failure).__name__)
