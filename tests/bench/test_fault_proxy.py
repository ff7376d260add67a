"""The fault proxy in front of a real server: every fault does what its name says, and ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from redis.exceptions import ResponseError

from bench.chaos.faults.fault import Fault, Kind
from bench.chaos.faults.fault_proxy import FaultProxy, main
from bench.chaos.faults.proxy_process import ProxyProcess
from bench.load.http_connection import Address
from models.errors import InvalidSettings, StoreUnavailable
from models.store.events import Event
from models.store.redis_store import RedisStore
from models.store.wire import Wire, read_address
from tests.fakes.service_harness import RedisServer

pytestmark = pytest.mark.system


VALUE = b"v" * 1000
TIMEOUT_S = 0.3


@pytest.fixture(scope="module")
def server(server: RedisServer) -> RedisServer:
    server.write("key", VALUE)
    return server


def address_of(server: RedisServer) -> Address:
    found = read_address(server.url)
    return Address(found.host, found.port)


@asynccontextmanager
async def serving_proxy(server: RedisServer) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(address_of(server), seed=1)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with serving_proxy(server) as proxy:
        yield proxy


@pytest.fixture
async def get(proxy: FaultProxy) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    wire = Wire(read_address(f"redis://127.0.0.1:{proxy.port}"), TIMEOUT_S)

    async def get() -> object:
        return (await wire.ask(("GET", "key")))[0]

    yield get
    await wire.close()


Get = Callable[[], Awaitable[object]]


async def test_without_a_fault_it_is_not_there(proxy: FaultProxy, get: Get) -> None:
    assert await asyncio.gather(*(get() for _ in range(50))) == [VALUE] * 50
    assert proxy.num_accepted == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(Kind.RESET), OSError),
        (Fault(Kind.TRUNCATE), OSError),
        (Fault(Kind.BLACK_HOLE), TimeoutError),
        (Fault(Kind.REFUSE), OSError),
        (Fault(Kind.LATENCY, delay_ms=2000 * TIMEOUT_S), TimeoutError),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_a_fault_strikes_a_connection_that_was_there_and_ends(
    proxy: FaultProxy, get: Get, fault: Fault, error: type[Exception]
) -> None:
    assert await get() == VALUE
    await proxy.switch(fault)
    for _ in range(2):
        with pytest.raises(error):
            await get()
    await proxy.switch(Fault())
    assert await get() == VALUE


async def test_latency_is_fixed_plus_jitter(proxy: FaultProxy, get: Get) -> None:
    await get()
    await proxy.switch(Fault(Kind.LATENCY, delay_ms=20, jitter_ms=30))
    seconds = []
    for _ in range(20):
        began_at = time.perf_counter()
        assert await get() == VALUE
        seconds.append(time.perf_counter() - began_at)
    assert min(seconds) >= 0.02
    assert max(seconds) - min(seconds) > 0.01


async def test_corruption_changes_one_byte(proxy: FaultProxy, server: RedisServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    healthy = b"$1000\r\n" + VALUE + b"\r\n"
    await proxy.switch(Fault(Kind.CORRUPT))
    for _ in range(20):
        writer.write(b"GET key\r\n")  # inline: the proxy passes on bytes that it cannot parse
        found = await reader.readexactly(len(healthy))
        assert sum(one != other for one, other in zip(found, healthy, strict=True)) == 1
    writer.close()


async def test_a_share_strikes_now_and_then(proxy: FaultProxy, get: Get) -> None:
    await get()
    await proxy.switch(Fault(Kind.RESET, share=0.3))
    found = [await asyncio.gather(get(), return_exceptions=True) for _ in range(100)]
    num_struck = sum(isinstance(one, OSError) for (one,) in found)
    assert 10 <= num_struck <= 60


async def test_every_command_is_answered_with_the_error_and_none_gets_through(
    proxy: FaultProxy, get: Get
) -> None:
    await get()
    await proxy.switch(Fault(Kind.ERROR, text="READONLY You can't write against a replica."))
    wire = Wire(read_address(f"redis://127.0.0.1:{proxy.port}"), TIMEOUT_S)
    replies = await wire.ask(("SET", "key", "other"), ("GET", "key"), ("PING",))
    assert all(isinstance(reply, ResponseError) for reply in replies)
    assert str(replies[0]).startswith("READONLY")
    await proxy.switch(Fault())
    assert await get() == VALUE
    await wire.close()


async def test_what_a_black_hole_swallowed_comes_late(proxy: FaultProxy) -> None:
    """TCP sends again after a partition: the reply arrives when nobody waits for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.switch(Fault(Kind.BLACK_HOLE))
    writer.write(b"PING\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(100), 0.1)
    await proxy.switch(Fault())
    assert await reader.readexactly(7) == b"+PONG\r\n"
    writer.close()


async def test_a_reset_is_a_reset_and_no_end(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.switch(Fault(Kind.RESET))
    writer.write(b"PING\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read(100)
    writer.close()


def test_a_job_connection_that_was_reset_while_idle_is_a_store_that_is_away(
    server: RedisServer,
) -> None:
    """This was a RuntimeError of redis-py, and a 500, on uvloop, the service's event loop."""

    async def append() -> None:
        async with serving_proxy(server) as proxy:
            store = RedisStore(f"redis://127.0.0.1:{proxy.port}", 200)
            await store.append_events("ann", [Event("item-1", 1, "a")])
            await proxy.switch(Fault(Kind.REFUSE))
            await asyncio.sleep(0.1)
            with pytest.raises(StoreUnavailable):
                await store.append_events("ann", [Event("item-2", 2, "b")])
            await proxy.switch(Fault())
            assert await store.append_events("ann", [Event("item-2", 2, "b")]) == 1
            await store.close()

    uvloop.run(append())


def test_the_process_takes_faults_over_its_control_socket(server: RedisServer) -> None:
    async def ask(port: int) -> object:
        wire = Wire(read_address(f"redis://127.0.0.1:{port}"), TIMEOUT_S)
        try:
            return (await wire.ask(("GET", "key")))[0]
        finally:
            await wire.close()

    with ProxyProcess(address_of(server)) as proxy:
        assert asyncio.run(ask(proxy.port)) == VALUE
        proxy.switch(Fault(Kind.REFUSE))
        with pytest.raises(OSError, match=r"refused|Connect"):
            asyncio.run(ask(proxy.port))
        proxy.switch(Fault())
        assert asyncio.run(ask(proxy.port)) == VALUE


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"nonsense", b"[]", b'{"kind": "flood"}', b'{"kind": "reset", "shar": 1}'),
        *(b'{"share": 0}', b'{"share": 2}', b'{"delay_ms": -1}', b'{"text": "a\\r\\n+b"}'),
    ],
)
def test_a_fault_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidSettings):
        Fault.decode(line)


def test_a_fault_survives_the_round_trip() -> None:
    fault = Fault(Kind.LATENCY, delay_ms=5, jitter_ms=2.5, share=0.5)
    assert Fault.decode(fault.encode()) == fault


def test_an_upstream_without_a_port_is_refused_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--upstream", "localhost"]) == 78
    assert capsys.readouterr().err == "fault proxy: --upstream localhost, expected HOST:PORT\n"
