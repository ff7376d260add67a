"""Connections under a guard that says what each test needs, around an application of a line."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.limits import connections
from service.limits.connections import Connection
from service.limits.flood_gate import POPULAR_EACH, Guard
from service.limits.unparsed import Plain
from service.sources import Criticality

REQUEST = b"GET /recommend/u HTTP/1.1\r\nHost: x\r\n\r\n"
CRITICAL = b"GET /recommend/u HTTP/1.1\r\nX-Criticality: critical\r\n\r\n"
FROM_ANN = b"GET /recommend/ann HTTP/1.1\r\nHost: x\r\n\r\n"
CRITICAL_FROM_ANN = FROM_ANN.replace(b"Host: x", b"X-Criticality: critical")
SHEDDABLE_FROM_ANN = FROM_ANN.replace(b"Host: x", b"X-Criticality: sheddable")
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
REST_S = 0.3
PATIENCE_S = {Criticality.SHEDDABLE: 0.05, Criticality.DEFAULT: 0.05, Criticality.CRITICAL: 10.0}
NOBODY = dict.fromkeys(Criticality, 0)
EVERYBODY = dict.fromkeys(Criticality, 1000)


def popular_to_ann(plain: Plain, fields: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    answer = b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n\r\n" % head
    return answer if plain.user_id == b"ann" else None


@dataclass
class Site:
    """work_s: for how long each request holds the loop."""

    guard: Guard
    port: int = 0
    work_s: float = 0.0
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

    def refuse_all(self, *, popular_patience_s: float = 0.0) -> None:
        self._flood(NOBODY, popular_patience_s)

    def be_late(self, *, popular_patience_s: float = 0.0) -> None:
        self._flood(EVERYBODY, popular_patience_s)

    def _flood(self, bounds: dict[Criticality, int], popular_patience_s: float) -> None:
        self.guard.renew(
            bounds,
            is_late=True,
            is_flooded=True,
            rest_s=REST_S,
            popular_patience_s=popular_patience_s,
        )

    def relax(self) -> None:
        self.guard.renew(EVERYBODY, is_late=False, is_flooded=False, rest_s=0.0)


@asynccontextmanager
async def serving(*, keep_alive_s: float = 5.0) -> AsyncIterator[tuple[Site, ServerState]]:
    site, state = Site(Guard(EVERYBODY, PATIENCE_S)), ServerState()
    config = Config(site, log_config=None, access_log=False, timeout_keep_alive=keep_alive_s)  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, guard=site.guard), "127.0.0.1", 0
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


async def test_who_asks_again_at_once_is_not_heard_for_a_while() -> None:
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask() == 503
        began_at = time.monotonic()
        assert await one.ask() == 503
        assert time.monotonic() - began_at > REST_S * 0.9
        assert site.guard.num_refused[Criticality.DEFAULT] == 2
        assert site.num_run == 0


async def test_who_waits_with_asking_again_is_heard_at_once() -> None:
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask() == 503
        await asyncio.sleep(REST_S)
        began_at = time.monotonic()
        assert await one.ask() == 503
        assert time.monotonic() - began_at < REST_S / 2


async def test_what_was_held_does_not_count_as_late() -> None:
    """Else those who ask again at once would be refused for ever, beside an idle process."""
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask() == 503
        site.be_late()
        began_at = time.monotonic()
        assert await one.ask() == 200
        assert time.monotonic() - began_at > REST_S / 2


async def test_nobody_rests_once_the_flood_is_over() -> None:
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask() == 503
        site.relax()
        began_at = time.monotonic()
        assert await one.ask() == 200
        assert time.monotonic() - began_at < REST_S / 2


async def test_what_was_held_is_answered_before_the_process_ends() -> None:
    async with serving() as (site, state), client(site) as one:
        site.refuse_all()
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
            site.refuse_all()
            assert await one.ask() == 503
            one.say(REQUEST)
            await asyncio.sleep(REST_S / 3)
        site.relax()
        await asyncio.sleep(REST_S * 1.5)
        assert not state.connections


async def test_a_request_refused_after_parsing_lets_its_connection_rest_too() -> None:
    body = b"POST /events/u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask(body) == 503
        began_at = time.monotonic()
        assert await one.ask() == 503
        assert time.monotonic() - began_at > REST_S / 2
        assert site.num_run == 0


async def test_who_cannot_be_let_in_is_answered_unread_while_there_is_time() -> None:
    async with serving() as (site, _), client(site) as one:
        site.guard.popular = popular_to_ann
        site.refuse_all(popular_patience_s=PATIENCE_S[Criticality.CRITICAL])
        began_at = time.monotonic()
        assert [await one.ask(FROM_ANN) for _ in range(3)] == [200] * 3
        assert time.monotonic() - began_at < REST_S  # nobody rests after an answer
        assert await one.ask() == 503  # there is none for that one
        assert (site.guard.num_popular, site.guard.num_turned_away, site.num_run) == (3, 4, 0)
        await asyncio.sleep(REST_S)
        site.refuse_all()
        assert await one.ask(FROM_ANN) == 503


async def test_so_many_are_answered_unread_as_are_let_in_times_some() -> None:
    async with serving() as (site, _), client(site) as one:
        site.guard.popular = popular_to_ann
        site.guard.num_popular_left = 1
        site.refuse_all(popular_patience_s=10.0)
        assert [await one.ask(CRITICAL_FROM_ANN) for _ in range(2)] == [200, 503]
        site.guard.renew(
            NOBODY,
            is_late=True,
            is_flooded=True,
            rest_s=0.0,
            popular_patience_s=10.0,
            num_let_in=1,
        )
        await asyncio.sleep(REST_S)
        statuses = [await one.ask(CRITICAL_FROM_ANN) for _ in range(POPULAR_EACH + 1)]
        assert statuses == [200] * POPULAR_EACH + [503]


async def test_the_last_popular_answers_are_for_the_more_critical() -> None:
    """Else sheddable clients that ask again at once have them, and critical ones are refused."""
    requests = (SHEDDABLE_FROM_ANN, FROM_ANN, CRITICAL_FROM_ANN)
    for num_left, statuses in ((97, [200] * 3), (96, [503, 200, 200]), (32, [503, 503, 200])):
        async with serving() as (site, _):
            site.guard.popular = popular_to_ann
            site.refuse_all(popular_patience_s=10.0)
            site.guard.num_popular_left = num_left
            for request, status in zip(requests, statuses, strict=True):
                async with client(site) as one:
                    assert await one.ask(request) == status


@pytest.mark.parametrize(("asked", "status"), [(FROM_ANN, 503), (CRITICAL_FROM_ANN, 200)])
async def test_who_was_held_is_answered_unread_if_critical(asked: bytes, status: int) -> None:
    async with serving() as (site, _), client(site) as one:
        site.guard.popular = popular_to_ann
        site.refuse_all()
        assert await one.ask(asked) == 503
        site.refuse_all(popular_patience_s=10.0)
        began_at = time.monotonic()
        assert await one.ask(asked) == status
        assert time.monotonic() - began_at > REST_S / 2
        assert site.num_run == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
async def test_what_lay_unread_for_far_too_long_is_not_even_answered_unread() -> None:
    async with serving() as (site, _), client(site) as one:
        site.guard.popular = popular_to_ann
        assert await one.ask() == 200
        unread_s = 2 * PATIENCE_S[Criticality.DEFAULT]
        for patience_s, status in ((2 * unread_s, 200), (unread_s / 2, 503)):
            site.be_late(popular_patience_s=patience_s)
            assert await ask_unread(one, FROM_ANN) == status
        assert (site.guard.num_popular, site.num_run) == (1, 1)


async def test_health_is_never_refused() -> None:
    async with serving() as (site, _), client(site) as one:
        site.refuse_all()
        assert await one.ask(HEALTH) == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
async def test_what_lay_unread_for_too_long_is_refused_while_the_loop_is_late() -> None:
    async with serving() as (site, _), client(site) as one:
        assert await one.ask() == 200
        site.be_late()
        assert await one.ask() == 200
        assert await ask_unread(one, REQUEST) == 503
        await asyncio.sleep(REST_S)
        assert await ask_unread(one, CRITICAL) == 200
        site.relax()
        assert await ask_unread(one, REQUEST) == 200


async def ask_unread(one: Client, data: bytes) -> int:
    one.say(data)  # sent at once
    time.sleep(2 * PATIENCE_S[Criticality.DEFAULT])  # noqa: ASYNC251
    return await one.status()


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


@pytest.mark.parametrize("is_flooded", [True, False])
async def test_one_round_of_the_loop_that_has_too_much_to_do_refuses_the_rest(
    is_flooded: bool,
) -> None:
    """In a flood: else it was but a burst, or a stall."""
    async with serving() as (site, _), client(site) as one, client(site) as two:
        assert await one.ask() == await two.ask() == 200
        site.guard.renew(EVERYBODY, is_late=False, is_flooded=is_flooded, rest_s=REST_S)
        site.work_s = 2 * PATIENCE_S[Criticality.DEFAULT]
        one.say(REQUEST)
        two.say(REQUEST)
        await asyncio.sleep(0)
        time.sleep(0.01)  # noqa: ASYNC251  # both are there when the loop looks
        statuses = {await one.status(), await two.status()}
        assert statuses == ({200, 503} if is_flooded else {200})


def test_a_wait_refuses_in_a_flood_or_where_as_many_are_present_as_are_let_in() -> None:
    bounds, kind = dict.fromkeys(Criticality, 2), Criticality.DEFAULT
    guard, waited_s = Guard(bounds, PATIENCE_S), 2 * PATIENCE_S[kind]
    assert not guard.is_too_late(kind, waited_s, 1)
    assert guard.is_too_late(kind, waited_s, 2)
    assert not guard.is_too_late(kind, PATIENCE_S[kind], 2)
    guard.renew(bounds, is_late=True, is_flooded=True, rest_s=0.0)
    assert guard.is_too_late(kind, waited_s, 1)


async def test_a_connection_that_is_only_refused_is_kept_as_long_as_after_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "READ_TIMEOUT_S", 0.2)
    async with serving(keep_alive_s=0.6) as (site, _), client(site) as one:
        site.guard.renew(NOBODY, is_late=True, is_flooded=True, rest_s=0.0)
        for _ in range(3):
            assert await one.ask() == 503
            await asyncio.sleep(0.3)
        began_at = time.monotonic()
        assert await one.reader.read() == b""  # hung up
        assert time.monotonic() - began_at < 0.6
