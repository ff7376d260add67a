"""One connection to Redis that all readers of a process share.

Commands of concurrent callers are sent back to back, and replies arrive in the same order. There is
no pool, no lock and no task per request. If a caller stops waiting, its replies are still read, and
dropped. Knows nothing of keys or of the meaning of a reply.

It is here for its CPU time per read of a user:

    this wire                       43 to 58 us
    a bare redis-py `Connection`    84 to 110 us
    pool and pipeline of redis-py   253 to 429 us
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
CONNECT_S = 0.5  # least time-out of a new connection, which takes several round trips
# Of one reply. The largest that we ask for, ten thousand erasures of the longest ids, has 11 MB.
MAX_REPLY_BYTES = 16 << 20
_GRACE_S = 0.001  # least grace of a late reply: bytes that have arrived are read first


@dataclass(frozen=True)
class Address:
    """Address of a Redis server: a host and port, or the path of a Unix socket."""

    host: str
    port: int
    path: str | None  # of a Unix socket; host and port are then ignored
    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]  # AUTH and SELECT, as the URL requires


class Wire:
    """A shared connection, made at the first `ask` and again after it is lost.

    Nothing is retried. `timeout_s` bounds a caller's wait for a connection, and its wait for
    replies. A connection itself may take longer, `CONNECT_S` at least, and is completed in the
    background: a TLS handshake and a greeting are slower than a reply.
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
        """Return replies in order; an error reply stays among them as a ResponseError.

        Raises:
            OSError: there is no connection, or it is lost.
            TimeoutError: a reply or the connection is late.
        """
        link = self._link
        if link is None or link.is_closed:
            link = await self._connect()
        return await link.ask(commands, self._timeout_s)

    def reset(self) -> None:
        """Close the connection: waiting callers get an OSError, the next `ask` reconnects."""
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
        """Wait for the connection that is being made, or start one."""
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
    """Read the address from a redis://, rediss:// or unix:// URL.

    Raises ValueError or TypeError for a bad one.
    """
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
    """Send the greeting. Raises ResponseError if the server refuses it."""
    if greeting:
        for reply in await link.ask(greeting, timeout_s):
            if isinstance(reply, ResponseError):
                raise reply


class _Pending:
    """Commands that were sent, with the future of their caller and the replies so far."""

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
    """One live connection; closed for good by the first event that puts its order in doubt."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.is_closed = False
        self._transport: asyncio.Transport | None = None
        self._pending: deque[_Pending] = deque()
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._heard_at = 0.0
        self._num_unread = 0  # bytes of the reply that is still incomplete

    def ask(self, commands: tuple[Command, ...], timeout_s: float) -> "asyncio.Future[list[Any]]":
        now = self._loop.time()
        due_at = now + timeout_s
        future = self._loop.create_future()
        pending = _Pending(future, len(commands), sent_at=now, due_at=due_at)
        if self._transport is None or self.is_closed:
            raise ConnectionResetError("the connection is closed")
        pending.timer = self._loop.call_at(due_at, self._await_late, pending)
        self._pending.append(pending)
        self._transport.write(b"".join([hiredis.pack_command(each) for each in commands]))
        return pending.future

    def close(self, reason: Exception) -> None:
        """Close the connection; waiting callers get an error of the type of `reason`."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()
        while self._pending:
            _settle(self._pending.popleft(), type(reason)(*reason.args))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._num_unread += len(data)
        if self._num_unread > MAX_REPLY_BYTES:
            self.close(ConnectionAbortedError(f"a reply above {MAX_REPLY_BYTES:,} bytes"))
            return
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._take(reply)
                self._num_unread = 0
        except (InvalidResponse, IndexError) as exc:
            self.close(ConnectionAbortedError(f"not a reply of Redis: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(ConnectionResetError(str(exc or "the server closed the connection")))
        self.ended.set_result(None)

    def _take(self, reply: Any) -> None:
        """Hand a reply to the oldest commands. Raises IndexError if no commands wait."""
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.num_replies:
            self._pending.popleft()
            _settle(pending)

    def _await_late(self, pending: _Pending) -> None:
        """Wait on after the time-out, for as long as the event loop was late for it.

        While the loop is late nothing is sent or read. The further wait is at most the time-out
        itself: a loop that is always late must notice an outage too.
        """
        held_up_s = self._loop.time() - pending.due_at
        longest_s = max(pending.due_at - pending.sent_at, _GRACE_S)
        grace_s = min(max(held_up_s, _GRACE_S), longest_s)
        pending.timer = self._loop.call_later(grace_s, self._expire, pending)

    def _expire(self, pending: _Pending) -> None:
        """Fail one caller; close the connection if nothing was heard since its commands."""
        if self._heard_at < pending.sent_at:
            self.close(TimeoutError("no reply in time"))
        else:
            _settle(pending, TimeoutError("no reply in time"))


def _settle(pending: _Pending, failure: Exception | None = None) -> None:
    if pending.timer is not None:
        pending.timer.cancel()
    with suppress(asyncio.InvalidStateError):  # the caller has stopped waiting
        if failure is None:
            pending.future.set_result(pending.replies)
        else:
            pending.future.set_exception(failure)
