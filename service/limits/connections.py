"""One client's connection, bounded on every side, on top of uvicorn's protocol.

    silence    a request that is not whole after READ_TIMEOUT_S is 408; a client that does not read
               its answer for WRITE_TIMEOUT_S is disconnected
    size       a URL above MAX_URL_BYTES is 414, URL and headers above MAX_HEAD_BYTES are 431
    number     MAX_CONNECTIONS in a process; further ones are closed at once
    departure  the request of a client that leaves is cancelled, in the model's queue too
    flood      the gate decides on each request when its head is read, and this file carries it out

Knows bytes and timers. Knows nothing of what a request means, nor when there is a flood.
"""

import asyncio
import math
import secrets
import socket
import struct
import sys
import time
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.limits.flood_gate import PASS, Arrival, FloodGate, Hold, Pass, Reply
from service.limits.replies import Rejections, WritePopular
from service.problems import problem
from service.sources import Criticality
from service.telemetry.request_headers import CRITICALITY_NAME, read_criticality

READ_TIMEOUT_S = 10.0  # for a whole request, from its first byte
WRITE_TIMEOUT_S = 10.0  # for the client to read its answer
MAX_URL_BYTES = 16 * 1024
MAX_HEAD_BYTES = 48 * 1024  # URL and headers together
MAX_CONNECTIONS = 10_000  # in a process

# tcpi_last_data_recv of struct tcp_info (linux/tcp.h): milliseconds. It is a part of Linux's ABI.
_LAST_DATA_RECEIVED, _LAST_DATA_AT, _TCP_INFO_BYTES = struct.Struct("=I"), 52, 56
_NEVER_REJECTED = (b"/health/", b"/metrics")  # orchestrators and dashboards ask these
_LAST_TIMEOUT_S = 3.0  # for a request that is arriving when the process is told to end
WHY_NOT_READ = {
    400: "this is no HTTP request",
    408: f"the request was not whole after {READ_TIMEOUT_S:.0f} seconds",
    414: f"URLs are limited to {MAX_URL_BYTES} bytes",
    431: f"URL and headers together are limited to {MAX_HEAD_BYTES} bytes",
}


class Connection(HttpToolsProtocol):
    """Protocol of one connection; uvicorn makes one for each client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: FloodGate,
        rejections: Rejections,
        write_popular: WritePopular,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gate = gate
        self._rejections = rejections
        self._write_popular = write_popular
        self._is_arriving = False  # a request has begun and is not whole
        self._has_head = False  # its head is read, its body is not
        self._is_dropped = False  # the application sees nothing of it, nor of its body
        self._has_answered = False  # the gate has answered a request of the newest bytes
        self._is_draining = False  # the process is about to end
        self._quiet_until = -math.inf  # monotonic; not read until then, after a rejection
        self._held = b""  # bytes that came before `_quiet_until`
        self._came_at = 0.0  # monotonic, when the newest bytes came
        self._num_head_bytes = 0  # received, including what the parser still keeps
        self._num_parsed_bytes = 0  # of the head
        self._status = 400  # answered if the request cannot be read
        self._running: asyncio.Task[Any] | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_request(READ_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._expect_nothing()
        self._note_reading()
        if self._running is not None:
            self._running.cancel()

    def data_received(self, data: bytes) -> None:
        self._came_at = time.monotonic()
        if len(self.tasks) >= self._gate.num_open and self._is_between_requests():
            arrival = Arrival(None, quiet_until=self._quiet_until)
            action = self._gate.decide(arrival, self._came_at)
            if isinstance(action, Hold):
                self._hold(data, action.until - self._came_at)
                return
            self._came_at -= self._unread_s()
        self._read(data)

    def _read(self, data: bytes) -> None:
        self._has_answered = False
        if not self._has_head:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_arriving and not self._has_head and self._num_head_bytes > MAX_HEAD_BYTES:
            self._give_up(431)
        elif self._is_arriving or not (self._is_busy() or self.timeout_keep_alive_task):
            self._expect_request(READ_TIMEOUT_S)
        else:
            self._expect_nothing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_arriving = True
        self._has_head = self._is_dropped = False
        self._num_parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._status = 414
            raise ValueError("URL too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers of a body are dropped, as nothing reads them."""
        if self._has_head:
            return
        super().on_header(name, value)
        self._num_parsed_bytes += len(name) + len(value) + 4
        if len(self.url) + self._num_parsed_bytes > MAX_HEAD_BYTES:
            self._status = 431
            raise ValueError("head too long")

    def on_headers_complete(self) -> None:
        """Ask the gate and carry out its decision."""
        self._has_head = True
        is_pipelined = self._is_busy()
        if self.transport.is_closing() or (is_pipelined and not self.cycle.keep_alive):
            self._is_dropped = True  # the answer before it is the last one
            return
        action: Pass | Hold | Reply = PASS
        if len(self.tasks) >= self._gate.num_open:
            now, criticality = time.monotonic(), criticality_of(self.url, self.headers)
            arrival = Arrival(criticality, len(self.tasks), now - self._came_at)
            action = self._gate.decide(arrival, now)
        match action:
            case Reply() if is_pipelined:
                self._is_dropped = True
                self.cycle.keep_alive = False  # its answer is the last one
            case Reply():
                self._is_dropped = True
                self._answer(action)
            case Pass() | Hold():  # a connection is held before its request is read, not here
                super().on_headers_complete()
                if self._is_draining:
                    self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._is_dropped:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_arriving = self._has_head = False
        self._num_head_bytes = 0
        if self._is_dropped:
            self._expect_next()
            return
        if "state" in self.scope:  # otherwise it was answered before it was through
            self.scope["state"]["came_at"] = self._came_at
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer with a problem, not uvicorn's plain text; repeat nothing of the request."""
        self._give_up(self._status)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()  # it has to read the rest of the answer

    def shutdown(self) -> None:
        """Close, but answer a request that is arriving first, if it is whole within 3 s."""
        self._is_draining = True
        self._read_held()
        if self._is_arriving:
            self._expect_nothing()
            self._expect_request(_LAST_TIMEOUT_S)
        if self._is_busy() or not self._is_arriving:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._note_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Abort: a plain close would wait for a client that has not read its last answer."""
        self.timeout_keep_alive_task = None
        self.transport.abort()

    def _start_asgi_task(  # type: ignore[override]
        self, cycle: RequestResponseCycle, app: ASGIApp
    ) -> None:
        async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
            if cycle.disconnected:
                return
            self._running = asyncio.current_task()
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.transport.is_closing():
                    raise
                cycle.disconnected = True  # and no answer is sent
            finally:
                self._running = None
                if cycle.response_complete:
                    scope.clear()  # otherwise an idle connection keeps all that its request had

        super()._start_asgi_task(cycle, until_gone)  # type: ignore[arg-type]

    def _answer(self, reply: Reply) -> None:
        """Write an answer of the gate."""
        method, answer = self.parser.get_method(), None
        if reply.may_be_popular:
            fields = self.server_state.default_headers
            answer = self._write_popular(method, self.url, self.headers, fields)
        if answer is not None:
            self._gate.count_popular()
        else:
            self._gate.count_rejection(reply.criticality)
            self._quiet_until = time.monotonic() + reply.rest_s
            answer = self._rejections.write()
        if method == b"HEAD":
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        is_second, self._has_answered = self._has_answered, True
        if is_second or self._is_draining or not self.parser.should_keep_alive():
            self.transport.write(answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
            self.transport.close()
            self._expect_reader()
        else:
            self.transport.write(answer)

    def _hold(self, data: bytes, seconds: float) -> None:
        self._held = data
        self.flow.pause_reading()
        self.loop.call_later(seconds, self._read_held)

    def _read_held(self) -> None:
        """Read the held bytes as if they came now: the rest is no lateness of this process."""
        data, self._held = self._held, b""
        if data and not self.transport.is_closing():
            self.flow.resume_reading()
            self._came_at = time.monotonic()
            self._read(data)

    def _unread_s(self) -> float:
        """Return the seconds since the kernel received the newest bytes; 0 where it cannot tell."""
        if sys.platform != "linux":
            return 0.0
        try:
            info = self.transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES
            )
        except OSError:  # no TCP
            return 0.0
        (milliseconds,) = _LAST_DATA_RECEIVED.unpack_from(info, _LAST_DATA_AT)
        return float(milliseconds) / 1000

    def _is_between_requests(self) -> bool:
        return not (self._is_arriving or self._is_draining or self._is_busy())

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self, status: int) -> None:
        """Answer with an error and close; only close if an answer has begun."""
        if self.cycle is not None and self._is_busy() and self.cycle.response_started:
            self.transport.abort()
            return
        answer = problem(status, WHY_NOT_READ[status], request_id=secrets.token_hex(8))
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        start = STATUS_LINE[status] + head.encode() + b"connection: close\r\n\r\n"
        self.transport.write(start + bytes(answer.body))
        self.transport.close()
        self._expect_reader()

    def _expect_request(self, timeout_s: float) -> None:
        """Start the timer of a request, unless it runs: more bytes do not prolong it."""
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(timeout_s, self._end_silence)

    def _expect_next(self) -> None:
        is_over = self._is_busy() or self.transport.is_closing()
        if self.timeout_keep_alive_task is None and not is_over:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expect_nothing(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _end_silence(self) -> None:
        """Give up a request that is not whole in time, or a connection without one."""
        if self._is_arriving and not self._is_dropped:
            self._give_up(408)
        else:
            self.transport.abort()

    def _expect_reader(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def _note_reading(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def criticality_of(url: bytes, headers: list[tuple[bytes, bytes]]) -> Criticality | None:
    """Return the criticality of a request; None for a request that is never rejected."""
    if url.startswith(_NEVER_REJECTED):
        return None
    return read_criticality(dict(headers).get(CRITICALITY_NAME))
