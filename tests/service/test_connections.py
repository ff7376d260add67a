"""Connections that carry out what a scripted gate decides, around an application of a line."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.limits import connections
from service.limits.concurrency import ConcurrencyLimiter
from service.limits.connections import Connection
from service.limits.flood_gate import PASS, Arrival, FloodGate, Hold, Pass, Reply
from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import OverloadSettings
from service.limits.replies import Headers, Rejections
from service.sources import Criticality

pytestmark = pytest.mark.system


REQUEST = b"GET /recommend/u HTTP/1.1\r\nHost: x\r\n\r\n"
FROM_ANN = b"GET /recommend/ann HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
EVENT = b"POST /events/u HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
CHUNKED = b"POST /events/u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
REST_S = 0.3
REJECT = Reply(Criticality.DEFAULT, may_be_popular=False, rest_s=REST_S)
GIVE_POPULAR = Reply(Criticality.DEFAULT, may_be_popular=True, rest_s=REST_S)


def popular_to_ann(method: bytes, url: bytes, _headers: Headers, fields: Headers) -> bytes | None:
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    answer = b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n\r\n" % head
    return answer if (method, url) == (b"GET", b"/recommend/ann") else None


class ScriptedGate(FloodGate):
    """Decide as the test says, and record what is asked; hold as the real gate does."""

    def __init__(self) -> None:
        settings = OverloadSettings()
        super().__init__(
            settings,
            budget_s=0.1,
            limiter=ConcurrencyLimiter(settings, budget_s=0.1, highest=128),
            lag=LoopLag(settings),
        )
        self.asked: list[Arrival] = []
        self.script: Callable[[Arrival], Pass | Reply] = lambda _: Pass()

    def decide(self, request: Arrival, now: float) -> Pass | Hold | Reply:
        self.asked.append(request)
        if now < request.quiet_until:
            return super().decide(request, now)
        return Pass() if request.criticality is None else self.script(request)


@dataclass
class Site:
    gate: ScriptedGate = field(default_factory=ScriptedGate)
    port: int = 0
    work_s: float = 0.0  # for which each request holds the loop
    num_run: int = 0
    scope: Scope = field(default_factory=dict)
    waited_s: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_run += 1
        self.scope = scope
        time.sleep(self.work_s)  # noqa: ASYNC251
        while (await receive()).get("more_body"):
            pass
        self.waited_s = time.monotonic() - scope["state"]["came_at"]
        await PlainTextResponse("well")(scope, receive, send)

    def reply(self, reply: Reply) -> None:
        self.gate.num_open = 0
        self.gate.script = lambda _: reply

    def look_only(self) -> None:
        self.gate.num_open = 0
        self.gate.script = lambda _: Pass()

    def relax(self) -> None:
        self.gate.num_open = 256


@asynccontextmanager
async def serving(*, keep_alive_s: float = 5.0) -> AsyncIterator[tuple[Site, ServerState]]:
    site, state = Site(), ServerState()
    config = Config(site, log_config=None, access_log=False, timeout_keep_alive=keep_alive_s)  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(
            config,
            state,
            {},
            gate=site.gate,
            rejections=Rejections(retry_after_s=1),
            write_popular=popular_to_ann,
        ),
        "127.0.0.1",
        0,
    )
    site.port = server.sockets[0].getsockname()[1]
    yield site, state
    server.close()
    for connection in list(state.connections):
        connection.transport.abort()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def status(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self.reader.readexactly(length)
        status = int(head.split()[1])
        assert (status == 503) == (b"retry-after: 1\r\n" in head.lower())
        return status

    async def ask(self, data: bytes = REQUEST) -> int:
        self.say(data)
        return await self.status()


@asynccontextmanager
async def client(site: Site) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    yield Client(reader, writer)
    writer.close()


async def test_a_client_that_asks_again_at_once_is_not_read_for_a_while() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask() == 503
        began_at = time.monotonic()
        assert await one.ask() == 503
        assert time.monotonic() - began_at > REST_S * 0.9
        assert site.gate.num_rejected[Criticality.DEFAULT] == 2
        assert site.num_run == 0


async def test_a_client_that_waits_before_asking_again_is_read_at_once() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask() == 503
        await asyncio.sleep(REST_S)
        began_at = time.monotonic()
        assert await one.ask() == 503
        assert time.monotonic() - began_at < REST_S / 2


async def test_what_was_held_does_not_count_as_late() -> None:
    """Otherwise clients that ask again at once would be rejected for ever by an idle process."""
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask() == 503
        site.look_only()
        began_at = time.monotonic()
        assert await one.ask() == 200
        assert time.monotonic() - began_at > REST_S / 2
        assert site.gate.asked[-1].waited_s < REST_S / 3


async def test_no_connection_rests_once_the_flood_is_over() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask() == 503
        site.relax()
        began_at = time.monotonic()
        assert await one.ask() == 200
        assert time.monotonic() - began_at < REST_S / 2


async def test_what_was_held_is_answered_before_the_process_ends() -> None:
    async with serving() as (site, state), client(site) as one:
        site.reply(REJECT)
        assert await one.ask() == 503
        one.say(REQUEST)
        await asyncio.sleep(REST_S / 3)
        site.relax()
        for connection in list(state.connections):
            connection.shutdown()
        assert await one.status() == 200
        assert await one.reader.read() == b""


async def test_a_client_that_leaves_while_it_rests_is_forgotten() -> None:
    async with serving() as (site, state):
        async with client(site) as one:
            site.reply(REJECT)
            assert await one.ask() == 503
            one.say(REQUEST)
            await asyncio.sleep(REST_S / 3)
        site.relax()
        await asyncio.sleep(REST_S * 1.5)
        assert not state.connections


@pytest.mark.parametrize("data", [EVENT + b"{}", CHUNKED])
async def test_a_request_with_a_body_is_rejected_and_its_connection_goes_on(data: bytes) -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask(data) == 503
        assert site.num_run == 0
        site.relax()
        assert await one.ask(data) == 200
        assert site.num_run == 1


async def test_a_body_that_comes_after_its_rejection_is_dropped() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask(EVENT) == 503
        one.say(b"{")
        await asyncio.sleep(0.05)
        site.relax()
        one.say(b"}")
        assert await one.ask() == 200
        assert site.num_run == 1


async def test_a_popular_answer_needs_no_rest_and_a_request_without_one_is_rejected() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(GIVE_POPULAR)
        began_at = time.monotonic()
        assert [await one.ask(FROM_ANN) for _ in range(3)] == [200] * 3
        assert time.monotonic() - began_at < REST_S
        assert await one.ask() == 503  # nobody but Ann has one
        assert (site.gate.num_popular, site.gate.num_turned_away, site.num_run) == (3, 4, 0)


@pytest.mark.parametrize(
    ("data", "num_heads"),
    [
        (b"GET /recommend/u HTTP/1.1\r\nConnection: close\r\n\r\n", 1),
        (b"GET /recommend/u HTTP/1.0\r\n\r\n", 1),
        (REQUEST * 3, 2),
        (FROM_ANN * 3, 2),
    ],
)
async def test_the_gate_closes_behind_a_last_answer(data: bytes, num_heads: int) -> None:
    """A pipelined request is a last one: otherwise a client could pile answers up."""
    async with serving() as (site, _), client(site) as one:
        site.reply(GIVE_POPULAR)
        one.say(data)
        heard = await one.reader.read()
        assert heard.count(b"HTTP/1.1 ") == num_heads
        assert heard.count(b"connection: close\r\n") == 1
        assert site.num_run == 0


async def test_a_rejected_request_that_is_pipelined_closes_behind_the_answer_before_it() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        site.gate.script = lambda arrival: REJECT if arrival.num_present else PASS
        one.say(REQUEST * 3)
        heard = await one.reader.read()
        assert heard.count(b"HTTP/1.1 200 ") == heard.count(b"HTTP/1.1 ") == 1
        assert site.num_run == 1


async def test_a_rejected_head_request_has_no_body() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        one.say(b"HEAD /recommend/u HTTP/1.1\r\n\r\n")
        head = await one.reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"503"
        site.relax()
        assert await one.ask() == 200


async def test_health_is_never_rejected() -> None:
    async with serving() as (site, _), client(site) as one:
        site.reply(REJECT)
        assert await one.ask(HEALTH) == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
async def test_the_gate_is_told_how_long_a_request_lay_unread() -> None:
    async with serving() as (site, _), client(site) as one:
        site.look_only()
        assert await one.ask() == 200
        assert site.gate.asked[-1].waited_s < 0.05
        one.say(REQUEST)  # sent at once
        time.sleep(0.1)  # noqa: ASYNC251
        assert await one.status() == 200
        assert 0.08 < site.gate.asked[-1].waited_s < 0.3
        assert site.waited_s > 0.08


async def test_the_gate_is_asked_only_where_as_many_are_present_as_may_pass_unseen() -> None:
    async with serving() as (site, _), client(site) as one:
        assert await one.ask() == 200
        assert not site.gate.asked
        site.look_only()
        headers = b"X-Criticality: critical"
        assert await one.ask(REQUEST.replace(b"Host: x", headers)) == 200
        assert [each.criticality for each in site.gate.asked] == [None, Criticality.CRITICAL]
        assert site.gate.asked[-1].num_present == 0


async def test_the_time_of_a_request_counts_from_when_it_was_whole() -> None:
    head = b"POST /events/u HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
    async with serving() as (site, _), client(site) as one:
        one.say(head)
        await asyncio.sleep(0.2)
        assert await one.ask(b"{}") == 200
        assert site.waited_s < 0.1
        one.say(head)
        await asyncio.sleep(0.05)
        site.work_s = 0.1
        assert await one.ask(b"{}" + REQUEST) == 200
        assert await one.status() == 200
        assert site.waited_s > 0.1  # pipelined: it waited for the other to run


async def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    async with serving() as (site, _), client(site) as one:
        assert await one.ask() == 200
        await asyncio.sleep(0)
        assert not site.scope


async def test_a_connection_that_is_only_rejected_is_kept_as_long_as_after_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "READ_TIMEOUT_S", 0.2)
    async with serving(keep_alive_s=0.6) as (site, _), client(site) as one:
        site.reply(Reply(Criticality.DEFAULT, may_be_popular=False, rest_s=0.0))
        for _ in range(3):
            assert await one.ask() == 503
            await asyncio.sleep(0.3)
        began_at = time.monotonic()
        assert await one.reader.read() == b""  # hung up
        assert time.monotonic() - began_at < 0.6
