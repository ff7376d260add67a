"""Discovery of servers by redis-py, and the wires to them, against scripted servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from models.errors import StoreUnavailable
from models.store.events import Event
from models.store.redis_store import RedisStore
from models.store.redis_url import read_redis_url
from models.store.topology import open_topology
from tests.fakes.scripted_redis import Serve, answering, array, serving

NOTHING_LISTENS = "127.0.0.1:1"


def slots_of(place: str) -> bytes:
    """A reply to CLUSTER SLOTS: one server owns all slots."""
    host, port = place.split(":")
    return array(array(0, 16383, array(host, int(port), "node-id")))


def masters_of(place: str) -> bytes:
    """A reply to SENTINEL MASTERS."""
    host, port = place.split(":")
    flags = ("flags", "master", "num-other-sentinels", "0")
    return array(array("name", "shop", "ip", host, "port", port, *flags))


@asynccontextmanager
async def opened(url: str, *, timeout_ms: int = 1000) -> AsyncIterator[Any]:
    """Yield the wire of a topology."""
    topology = open_topology(read_redis_url(url), timeout_ms)
    try:
        yield topology.wire
    finally:
        await topology.wire.close()
        for client in (topology.client, *topology.helpers):
            await client.aclose()


async def test_a_cluster_is_discovered_again_in_the_background_and_not_at_every_error() -> None:
    num_discoveries = 0

    def reply_to(commands: bytes) -> bytes:
        nonlocal num_discoveries
        if b"SLOTS" in commands:
            num_discoveries += 1
            return slots_of(place)
        return b"-MOVED 1 127.0.0.1:1\r\n"

    async with (
        serving(answering(reply_to)) as place,
        opened(f"redis://{place}?cluster=true") as wire,
    ):
        for _ in range(20):
            (reply,) = await wire.ask(("GET", "key"))
            assert isinstance(reply, ResponseError)
        assert num_discoveries == 1
        await asyncio.sleep(0.15)
        await wire.ask(("GET", "key"))
        await asyncio.sleep(0.05)
        assert num_discoveries == 2


async def test_a_cluster_with_new_addresses_throughout_is_found_by_its_url() -> None:
    """redis-py asks only the servers that were named last."""
    value = answering(lambda _: b"+value\r\n")
    owner = ""
    seeding = answering(lambda _: slots_of(owner))
    async with (
        serving(seeding) as seed,
        serving(value) as new,
        opened(f"redis://{seed}?cluster=true") as wire,
    ):
        async with serving(value) as old:
            owner = old
            assert await wire.ask(("GET", "key")) == [b"value"]
        owner = new
        await asyncio.sleep(0.15)
        with pytest.raises(OSError, match="Connect"):
            await wire.ask(("GET", "key"))
        await asyncio.sleep(0.1)
        assert await wire.ask(("GET", "key")) == [b"value"]


async def test_a_cluster_without_a_server_is_a_store_that_is_away() -> None:
    """redis-py's RedisClusterException is no RedisError: batches raised it untranslated."""
    store = RedisStore(f"redis://{NOTHING_LISTENS}?cluster=true", timeout_ms=200)
    event = Event("item", 1, "id")
    for users in (["ann"], ["ann", "bob"]):
        with pytest.raises(StoreUnavailable):
            await store.append_each({user: [event] for user in users})
    await store.close()


async def test_a_master_that_takes_long_to_greet_is_found_by_one_connection() -> None:
    num_connections = 0

    async def greet_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read(100)
        await asyncio.sleep(0.3)
        writer.write(b"+OK\r\n")
        while commands := await reader.read(100):
            writer.write(array("master") if b"ROLE" in commands else b"+fine\r\n")

    naming: Serve = answering(lambda _: masters_of(place))
    async with (
        serving(greet_late) as place,
        serving(naming) as sentinel,
        opened(f"redis+sentinel://:secret@{sentinel}/shop", timeout_ms=100) as wire,
    ):
        with pytest.raises(TimeoutError):
            await wire.ask(("A",))
        await asyncio.sleep(0.3)
        assert await wire.ask(("A",)) == [b"fine"]
        assert num_connections == 1


async def test_a_named_server_that_is_a_replica_is_refused_and_sentinels_asked_again() -> None:
    def by_role(role: str) -> Serve:
        return answering(lambda asked: array(role) if b"ROLE" in asked else f"+{role}\r\n".encode())

    async with serving(by_role("slave")) as old, serving(by_role("master")) as new:
        named = [old, new]
        naming = answering(lambda _: masters_of(named.pop(0)))
        async with serving(naming) as sentinel, opened(f"redis+sentinel://{sentinel}/shop") as wire:
            with pytest.raises(ConnectionRefusedError, match="no longer a master"):
                await wire.ask(("A",))
            assert await wire.ask(("A",)) == [b"master"]


async def test_sentinels_that_refuse_are_an_error_with_their_reason() -> None:
    """redis-py's own text gives the options of a connection, and not the reason."""
    refusing = answering(lambda _: b"-NOAUTH Authentication required.\r\n")
    async with serving(refusing) as sentinel, opened(f"redis+sentinel://{sentinel}/shop") as wire:
        with pytest.raises(RedisError, match="Authentication required"):
            await wire.ask(("A",))
