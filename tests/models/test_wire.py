"""The shared connection: every caller gets its own replies, also if other callers fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from models.store.embedded import attach
from models.store.wire import CONNECT_S, MAX_REPLY_BYTES, Command, Wire, read_address
from tests.fakes.scripted_redis import Serve, serving

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with attach(tmp_path_factory.mktemp("state")) as server:
        yield server.url


@pytest.fixture
async def wire(server_url: str) -> AsyncIterator[Wire]:
    wire = Wire(read_address(server_url), 5.0)
    yield wire
    await wire.close()


@asynccontextmanager
async def wire_to(serve: Serve, *, timeout_s: float = 5.0, login: str = "") -> AsyncIterator[Wire]:
    async with serving(serve) as place:
        wire = Wire(read_address(f"redis://{login}{place}"), timeout_s)
        try:
            yield wire
        finally:
            await wire.close()


async def connections(server_url: str) -> int:
    async with redis.asyncio.Redis.from_url(server_url) as client:
        received: int = (await client.info("stats"))["total_connections_received"]
        return received


async def test_callers_at_once_share_a_connection_and_get_their_own_replies(
    wire: Wire, server_url: str
) -> None:
    await wire.ask(("PING",))
    before = await connections(server_url)
    asks = [wire.ask(("ECHO", f"{n}"), ("ECHO", b"x" * n)) for n in range(500)]
    replies = await asyncio.gather(*asks)
    assert replies == [[b"%d" % n, b"x" * n] for n in range(500)]
    assert await connections(server_url) == before + 1  # that of the counting itself


async def test_an_error_stays_among_the_replies(wire: Wire) -> None:
    await wire.ask(("SET", "text", "x"))
    error, value = await wire.ask(("LLEN", "text"), ("GET", "text"))
    assert isinstance(error, ResponseError)
    assert str(error).startswith("WRONGTYPE")
    assert value == b"x"


async def test_a_caller_that_stops_waiting_costs_no_connection_and_no_order(
    wire: Wire, server_url: str
) -> None:
    await wire.ask(("PING",))
    before = await connections(server_url)
    asks = [asyncio.create_task(wire.ask(("ECHO", f"{n}"))) for n in range(100)]
    await asyncio.sleep(0)
    for ask in asks[::2]:
        ask.cancel()
    kept = await asyncio.gather(*asks[1::2])
    assert kept == [[b"%d" % n] for n in range(1, 100, 2)]
    assert await connections(server_url) == before + 1


async def test_a_lost_connection_fails_those_who_wait_and_the_next_ask_makes_a_new_one() -> None:
    num_connections = 0

    async def hang_up_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read(100)
        if num_connections > 1:
            writer.write(b"+PONG\r\n")
            await reader.read()

    async with wire_to(hang_up_once) as wire:
        asks = [wire.ask(("PING",)) for _ in range(3)]
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionResetError] * 3
        assert await wire.ask(("PING",)) == [b"PONG"]
        assert num_connections == 2


async def test_a_silent_server_is_given_up_and_a_new_connection_tried() -> None:
    num_connections = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read()

    async with wire_to(say_nothing, timeout_s=0.05) as wire:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await wire.ask(("PING",))
        assert num_connections == 2


async def test_a_late_reply_fails_its_own_caller_only() -> None:
    async def answer_the_second_late(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(100)
        writer.write(b"+first\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"+second\r\n+third\r\n")
        await reader.read()

    async with wire_to(answer_the_second_late, timeout_s=0.2) as wire:
        first, second = wire.ask(("A",)), asyncio.create_task(wire.ask(("B",)))
        assert await first == [b"first"]
        await asyncio.sleep(0.15)
        third = asyncio.create_task(wire.ask(("C",)))
        with pytest.raises(TimeoutError):
            await second
        assert await third == [b"third"]


async def test_a_process_that_was_held_up_gives_the_server_its_time_all_the_same() -> None:
    """Such a time-out is not the server's: it would open a breaker and cost everybody a rung."""

    async def answer_soon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            await asyncio.sleep(0.03)
            writer.write(b"+here\r\n")

    async with wire_to(answer_soon, timeout_s=0.1) as wire:
        assert await wire.ask(("A",)) == [b"here"]
        asked = asyncio.create_task(wire.ask(("B",)))
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251  # before it is sent, and past its time
        assert await asked == [b"here"]


async def test_a_process_that_is_always_held_up_learns_of_an_outage_too() -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"+here\r\n")
        await reader.read()

    async with wire_to(answer_once, timeout_s=0.05) as wire:
        assert await wire.ask(("A",)) == [b"here"]
        asked, began_at = asyncio.create_task(wire.ask(("A",))), time.monotonic()
        while not asked.done():
            assert time.monotonic() < began_at + 2
            time.sleep(0.1)  # noqa: ASYNC251
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asked


@pytest.mark.parametrize("junk", [b"hello\r\n", b"+one\r\n+two\r\n", b"\x00\xff"])
async def test_what_is_no_reply_to_us_ends_the_connection(junk: bytes) -> None:
    async def talk_junk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(junk)
        await reader.read()

    async with wire_to(talk_junk) as wire:
        outcomes: list[object] = []
        for _ in range(2):
            outcomes += await asyncio.gather(wire.ask(("PING",)), return_exceptions=True)
            await asyncio.sleep(0.05)
        assert {type(outcome) for outcome in outcomes} <= {ConnectionAbortedError, list}


async def test_a_reply_without_end_ends_the_connection_before_it_fills_the_memory() -> None:
    sent = 0

    async def talk_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(100)
        writer.write(b"$1000000000\r\n")
        with suppress(ConnectionError):
            while sent < 4 * MAX_REPLY_BYTES:
                writer.write(b"x" * 65536)
                sent += 65536
                await writer.drain()

    async with wire_to(talk_on) as wire:
        with pytest.raises(ConnectionAbortedError, match="16,777,216 bytes"):
            await wire.ask(("GET", "large"))
    assert MAX_REPLY_BYTES <= sent < 2 * MAX_REPLY_BYTES


async def test_many_replies_at_once_are_no_large_one(wire: Wire) -> None:
    text = b"x" * (MAX_REPLY_BYTES // 16)
    assert await wire.ask(*[("ECHO", text)] * 20) == [text] * 20


async def test_a_reset_fails_those_who_wait(wire: Wire) -> None:
    await wire.ask(("PING",))
    waiting = asyncio.create_task(wire.ask(("BLPOP", "nothing", "60")))
    await asyncio.sleep(0.05)
    wire.reset()
    with pytest.raises(ConnectionResetError):
        await waiting
    assert await wire.ask(("PING",)) == [b"PONG"]


async def test_one_caller_that_gives_up_connecting_does_not_stop_the_others(
    wire: Wire,
) -> None:
    asks = [asyncio.create_task(wire.ask(("PING",))) for _ in range(3)]
    await asyncio.sleep(0)
    asks[0].cancel()
    assert await asyncio.gather(*asks[1:]) == [[b"PONG"]] * 2


async def test_a_connection_that_takes_longer_than_a_reply_may_is_made_all_the_same() -> None:
    num_connections = 0

    async def greet_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read(100)
        await asyncio.sleep(0.3)
        while True:
            writer.write(b"+fine\r\n")
            if not await reader.read(100):
                break

    async with wire_to(greet_late, timeout_s=0.1, login=":secret@") as wire:
        with pytest.raises(TimeoutError):
            await wire.ask(("A",))
        opened = [wire.is_open]
        await asyncio.sleep(0.3)
        assert [*opened, wire.is_open] == [False, True]
        assert await wire.ask(("A",)) == [b"fine"]
        assert num_connections == 1


async def test_a_connection_that_is_never_greeted_is_given_up_and_another_one_made() -> None:
    num_connections = 0

    async def greet_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        silent = num_connections == 1
        while await reader.read(100):
            if not silent:
                writer.write(b"+fine\r\n")

    async with wire_to(greet_the_second, timeout_s=0.1, login=":secret@") as wire:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await wire.ask(("A",))
        assert num_connections == 1
        await asyncio.sleep(CONNECT_S)
        assert await wire.ask(("A",)) == [b"fine"]
        assert num_connections == 2


async def test_a_password_and_a_database_are_sent_first(wire: Wire, server_url: str) -> None:
    greeted: list[Command] = [("SELECT", 3)]
    assert read_address(f"{server_url}?db=3").greeting == tuple(greeted)
    assert read_address("redis://ann:secret@host/2").greeting == (
        ("AUTH", "ann", "secret"),
        ("SELECT", 2),
    )
    assert read_address("redis://:secret@host").greeting == (("AUTH", "secret"),)
    other = Wire(read_address(f"{server_url}?db=3"), 5.0)
    await other.ask(("SET", "only-here", "x"))
    assert await wire.ask(("GET", "only-here")) == [None]
    await other.close()


async def test_a_server_that_lets_nobody_in_is_an_error_and_not_an_answer(
    server_url: str,
) -> None:
    wire = Wire(read_address(f"{server_url}?db=99999"), 5.0)
    with pytest.raises(ResponseError):
        await wire.ask(("PING",))
    await wire.close()


def test_an_address_knows_sockets_ports_and_tls() -> None:
    assert read_address("unix:///run/redis.sock").path == "/run/redis.sock"
    assert read_address("redis://cache:7000/0").port == 7000
    assert read_address("redis://cache").tls is None
    assert read_address("rediss://cache").tls is not None
