"""The wires of a cluster: which of its masters a command belongs to, and what if that changes.

A command that meets a node which no longer owns its slot, or no node at all, fails at once, and the
topology is read again behind it: the request path never waits for a cluster to sort itself out.
Knows nothing of keys but how they hash.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ResponseError

from models.store.wire import Address, Command, Wire

logger = logging.getLogger(__name__)

_MOVED = ("MOVED", "ASK", "CLUSTERDOWN", "READONLY", "TRYAGAIN")
_KEY_AT = {"EVAL": 3, "PING": None}  # where a command has its first key, unless right behind it


class ClusterWire:
    """A `Wire` to each master; all commands of one `ask` must be of one slot."""

    def __init__(self, seed: Address, timeout_s: float) -> None:
        self._seed = seed
        self._timeout_s = timeout_s
        self._owners: list[tuple[int, int, Address]] = []  # first slot, last slot
        self._wires: dict[tuple[str, int], Wire] = {}
        self._known: list[Address] = [seed]
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, *commands: Command) -> list[Any]:
        """As `Wire.ask`; also raises OSError where no master is known for the slot."""
        if not self._owners:
            await asyncio.shield(self._read_again())
        try:
            replies = await self._wire_of(_slot(commands[0])).ask(*commands)
        except (OSError, TimeoutError):
            self._read_again()
            raise
        if any(_has_moved(reply) for reply in replies):
            self._read_again()
        return replies

    def reset(self) -> None:
        for wire in self._wires.values():
            wire.reset()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        for wire in self._wires.values():
            await wire.close()

    def _wire_of(self, slot: int | None) -> Wire:
        for first, last, address in self._owners:
            if slot is None or first <= slot <= last:
                return self._wire_to(address)
        raise ConnectionRefusedError(f"no master is known for slot {slot}")

    def _wire_to(self, address: Address) -> Wire:
        place = (address.host, address.port)
        if place not in self._wires:
            self._wires[place] = Wire(address, self._timeout_s)
        return self._wires[place]

    def _read_again(self) -> "asyncio.Task[None]":
        """Read the topology, unless that is under way."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_topology())
            self._reading.add_done_callback(_log_failure)
        return self._reading

    async def _read_topology(self) -> None:
        """Ask the nodes that are known, one by one. Raises the last one's OSError if none tells."""
        failure: Exception = ConnectionRefusedError("no node of the cluster answers")
        for address in self._known:
            try:
                (reply,) = await self._wire_to(address).ask(("CLUSTER", "SLOTS"))
            except (OSError, TimeoutError) as exc:
                failure = exc
                continue
            if isinstance(reply, ResponseError):
                raise ConnectionRefusedError(str(reply))
            self._take(reply)
            return
        raise failure

    def _take(self, slots: Sequence[Any]) -> None:
        owners, nodes = [], []
        for first, last, *serving in slots:
            addresses = [self._address(node) for node in serving]
            owners.append((first, last, addresses[0]))
            nodes += addresses
        self._owners = owners
        self._known = list(dict.fromkeys([*nodes, self._seed]))

    def _address(self, node: Sequence[Any]) -> Address:
        host = node[0].decode() if node[0] else self._seed.host
        return replace(self._seed, host=host, port=int(node[1]))


def _slot(command: Command) -> int | None:
    """Slot of a command's first key; None for one that any node answers."""
    at = _KEY_AT.get(command[0], 1)
    if at is None:
        return None
    key = command[at]
    return int(key_slot(key.encode() if isinstance(key, str) else key))


def _has_moved(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith(_MOVED)


def _log_failure(reading: "asyncio.Task[None]") -> None:
    if not reading.cancelled() and (failure := reading.exception()) is not None:
        logger.warning("the cluster's topology is not to be had (%s)", type(failure).__name__)
