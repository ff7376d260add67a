"""One connection to Redis that all readers of a process share.

Commands of concurrent callers go out back to back and their replies come home in the same order: no
pool, no lock, no task a request. A caller who stops waiting costs nothing, as the replies that were
meant for it are read all the same and dropped. Knows nothing of keys or of what a reply means.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import InvalidResponse, ResponseError

Command = tuple[Any, ...]  # str, bytes and numbers
CONNECT_S = 0.5  # at least, for a new connection: behind whoever asks, in several round trips
_GRACE_S = 0.001  # at least: what came in the meantime is read before giving up


@dataclass(frozen=True)
class Address:
    """Where a Redis listens: a host and port, or the path of a Unix socket."""

    host: str
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]  # AUTH and SELECT as the URL asks for them


class Wire:
    """Connects at the first `ask`, and again at the next one after a connection is lost.

    `timeout_s` bounds the wait for a connection and that for replies; nothing is retried. Making a
    connection goes on behind those who stopped waiting, for `CONNECT_S` or `timeout_s` if that is
    longer: a handshake of TLS and a greeting may take longer than any reply.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    @property
    def is_open(self) -> bool:
        return self._link is not None and not self._link.is_closed

    async def ask(self, *commands: Command) -> list[Any]:
        """Replies in order; an error reply stays among them as a ResponseError.

        Raises OSError when there is no connection or it is lost, TimeoutError for a late reply.
        """
        link = self._link
        if link is None or link.is_closed:
            link = await self._connect()
        return await link.ask(commands, self._timeout_s)

    def reset(self) -> None:
        """Close the connection: whoever waits gets an OSError, the next `ask` a new one."""
        if self._link is not None:
            self._link.close(ConnectionResetError("the connection was reset"))

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self.reset()
        if self._link is not None:
            await asyncio.wait([self._link.ended], timeout=self._timeout_s)

    async def _connect(self) -> "_Link":
        """All who come while a connection is being made wait for that one."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._connected)
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.shield(self._connecting)

    def _connected(self, connecting: "asyncio.Task[_Link]") -> None:
        self._connecting = None
        if not connecting.cancelled() and connecting.exception() is None:
            self._link = connecting.result()

    async def _open(self) -> "_Link":
        address, longest_s = self._address, max(self._timeout_s, CONNECT_S)
        async with asyncio.timeout(longest_s):
            link = await _reach(address)
            try:
                await _greet(link, address.greeting, longest_s)
            except BaseException:
                link.close(ConnectionAbortedError("the connection was refused"))
                raise
        return link


def read_address(url: str) -> Address:
    """The address in a redis://, rediss:// or unix:// URL. Raises ValueError or TypeError."""
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", None)
    greeting: list[Command] = []
    if (password := options.get("password")) is not None:
        user = (options["username"],) if options.get("username") else ()
        greeting.append(("AUTH", *user, password))
    if db := int(options.get("db", 0)):
        greeting.append(("SELECT", db))
    return Address(
        host=options.get("host", "localhost"),
        port=int(options.get("port", 6379)),
        path=options["path"] if kind is UnixDomainSocketConnection else None,
        tls=SSLConnection(**options).ssl_context.get() if kind is SSLConnection else None,
        greeting=tuple(greeting),
    )


async def _reach(address: Address) -> "_Link":
    loop = asyncio.get_running_loop()
    if address.path is not None:
        _, link = await loop.create_unix_connection(_Link, address.path)
    else:
        _, link = await loop.create_connection(_Link, address.host, address.port, ssl=address.tls)
    return link


async def _greet(link: "_Link", greeting: tuple[Command, ...], timeout_s: float) -> None:
    """Raises ResponseError when the server does not let us in."""
    if greeting:
        for reply in await link.ask(greeting, timeout_s):
            if isinstance(reply, ResponseError):
                raise reply


class _Asked:
    """Commands on their way: who waits for the replies, and which have come."""

    __slots__ = ("due_at", "future", "num_replies", "replies", "sent_at", "timer")

    def __init__(
        self,
        future: "asyncio.Future[list[Any]]",
        num_replies: int,
        *,
        sent_at: float,
        due_at: float,
    ):
        self.future = future
        self.num_replies = num_replies
        self.replies: list[Any] = []
        self.sent_at = sent_at
        self.due_at = due_at
        self.timer: asyncio.TimerHandle | None = None


class _Link(asyncio.Protocol):
    """One live connection; closed for good by the first thing that puts its order in doubt."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.is_closed = False
        self._transport: asyncio.Transport | None = None
        self._asked: deque[_Asked] = deque()
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._heard_at = 0.0

    def ask(self, commands: tuple[Command, ...], timeout_s: float) -> "asyncio.Future[list[Any]]":
        now = self._loop.time()
        due_at = now + timeout_s
        future = self._loop.create_future()
        asked = _Asked(future, len(commands), sent_at=now, due_at=due_at)
        if self._transport is None or self.is_closed:
            raise ConnectionResetError("the connection is closed")
        asked.timer = self._loop.call_at(due_at, self._await_late, asked)
        self._asked.append(asked)
        self._transport.write(b"".join([hiredis.pack_command(each) for each in commands]))
        return asked.future

    def close(self, reason: Exception) -> None:
        """Whoever still waits gets an error of the reason's kind."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()
        while self._asked:
            _settle(self._asked.popleft(), type(reason)(*reason.args))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # which uvloop's does not inherit

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._take(reply)
        except (InvalidResponse, IndexError) as exc:
            self.close(ConnectionAbortedError(f"no reply of Redis: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(ConnectionResetError(str(exc or "the server closed the connection")))
        self.ended.set_result(None)

    def _take(self, reply: Any) -> None:
        """Raises IndexError for a reply that nobody asked for."""
        asked = self._asked[0]
        asked.replies.append(reply)
        if len(asked.replies) == asked.num_replies:
            self._asked.popleft()
            _settle(asked)

    def _await_late(self, asked: _Asked) -> None:
        """For as long again as this process was held up, in which nothing was sent or read.

        At most for the time-out once more: a loop that is always late learns of an outage too.
        """
        held_up_s = self._loop.time() - asked.due_at
        longest_s = max(asked.due_at - asked.sent_at, _GRACE_S)
        grace_s = min(max(held_up_s, _GRACE_S), longest_s)
        asked.timer = self._loop.call_later(grace_s, self._expire, asked)

    def _expire(self, asked: _Asked) -> None:
        """A server that was heard meanwhile is slow; one that was not may be gone."""
        if self._heard_at < asked.sent_at:
            self.close(TimeoutError("no reply in time"))
        else:
            _settle(asked, TimeoutError("no reply in time"))


def _settle(asked: _Asked, failure: Exception | None = None) -> None:
    if asked.timer is not None:
        asked.timer.cancel()
    with suppress(asyncio.InvalidStateError):  # the caller has stopped waiting
        if failure is None:
            asked.future.set_result(asked.replies)
        else:
            asked.future.set_exception(failure)
