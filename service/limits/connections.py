"""One client's connection, bounded on every side, on top of uvicorn's protocol.

    silence    a request that is not whole after READ_TIMEOUT_S is 408, a reader that stands still
               for WRITE_TIMEOUT_S is closed
    size       a URL above MAX_URL_BYTES is 414, a head above MAX_HEAD_BYTES is 431
    number     MAX_CONNECTIONS a process; more are closed at once
    departure  a client that leaves takes its request along, out of the model's queue too
    flood      `popular` or 503 before it is parsed, or 503 before anything of ours runs

Knows bytes and timers; nothing of what a request means.
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

from service.limits.flood_gate import Guard, refusal, refuse
from service.limits.unparsed import Plain, criticality_of, read_plain
from service.problems import problem
from service.sources import Criticality

READ_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
MAX_URL_BYTES = 16 * 1024
MAX_HEAD_BYTES = 48 * 1024  # URL and headers together
MAX_CONNECTIONS = 10_000

# Of struct tcp_info (linux/tcp.h), tcpi_last_data_recv: milliseconds, a part of Linux's ABI.
_LAST_DATA_RECEIVED, _LAST_DATA_AT, _TCP_INFO_BYTES = struct.Struct("=I"), 52, 56
_LAST_TIMEOUT_S = 3.0  # for a request that is arriving when the process is told to end
WHY_NOT_READ = {
    400: "this is no HTTP request",
    408: f"the request was not whole after {READ_TIMEOUT_S:.0f} seconds",
    414: f"URLs are limited to {MAX_URL_BYTES} bytes",
    431: f"URL and headers together are limited to {MAX_HEAD_BYTES} bytes",
}


class Connection(HttpToolsProtocol):
    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        guard: Guard,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._guard = guard
        self._is_arriving = False  # a request has begun and is not whole
        self._has_head = False  # and its body has begun
        self._is_draining = False
        self._rests_until = -math.inf  # of a client that was just refused
        self._held = b""  # what it sent meanwhile
        self._came_at = 0.0  # monotonic, what was received last
        self._num_head_bytes = 0  # as received, also what the parser keeps to itself
        self._num_parsed_bytes = 0
        self._status = 400  # of a request that cannot be read
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
        self._reader_moves()
        if self._running is not None:
            self._running.cancel()

    def data_received(self, data: bytes) -> None:
        self._came_at = time.monotonic()
        if len(self.tasks) < self._guard.least or not self._is_turned_away(data):
            self._read(data)

    def _read(self, data: bytes) -> None:
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
        self._has_head = False
        self._num_parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._status = 414
            raise ValueError("URL too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers, and the trailers of a body, which are dropped: nobody here reads them."""
        if self._has_head:
            return
        super().on_header(name, value)
        self._num_parsed_bytes += len(name) + len(value) + 4
        if len(self.url) + self._num_parsed_bytes > MAX_HEAD_BYTES:
            self._status = 431
            raise ValueError("head too long")

    def on_headers_complete(self) -> None:
        self._has_head = True
        super().on_headers_complete()
        if self._is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._is_arriving = self._has_head = False
        self._num_head_bytes = 0
        if "state" in self.scope:  # else it was answered before it was through
            self.scope["state"]["came_at"] = self._came_at
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's plain text; nothing of the bytes is repeated."""
        self._give_up(self._status)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()  # to take what is left of the answer

    def shutdown(self) -> None:
        """As uvicorn's, but a request that is arriving gets its answer, if it does not dawdle."""
        self._is_draining = True
        self._listen()
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
        self._reader_moves()

    def timeout_keep_alive_handler(self) -> None:
        """Also when it has never read its last answer, for which a plain close would wait."""
        self.timeout_keep_alive_task = None
        if self.loop.time() - self._rests_until < self.timeout_keep_alive:
            self._stay()
        else:
            self.transport.abort()

    def _start_asgi_task(  # type: ignore[override]
        self, cycle: RequestResponseCycle, app: ASGIApp
    ) -> None:
        if len(self.tasks) >= self._guard.least:
            criticality = _criticality(cycle)
            if criticality is not None and self._is_one_too_many(criticality):
                self._note_refusal(criticality)
                app = refuse

        async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
            if cycle.disconnected:
                return
            self._running = asyncio.current_task()
            try:
                await (refuse if self._is_begun_too_late(cycle) else app)(scope, receive, send)
            except asyncio.CancelledError:
                if not self.transport.is_closing():
                    raise
                cycle.disconnected = True  # and nobody is told anything
            finally:
                self._running = None
                if cycle.response_complete:
                    scope.clear()  # else an idle connection keeps all that its request was given

        super()._start_asgi_task(cycle, until_gone)  # type: ignore[arg-type]

    def _is_turned_away(self, data: bytes) -> bool:
        """Refused, or kept for as long as its client rests. For next to nothing: no timer moves."""
        if self._is_arriving or self._is_draining or self._is_busy():
            return False
        if (rest_s := self._rests_until - self.loop.time()) > 0:
            self._held = data
            self.flow.pause_reading()
            self.loop.call_later(rest_s, self._listen)
            return True
        return self._is_answered_unread(data)

    def _is_answered_unread(self, data: bytes, *, was_held: bool = False) -> bool:
        plain = read_plain(data)
        if plain is None:
            return False
        if not self._is_one_too_many(plain.criticality):
            if was_held:
                return False
            self._came_at -= self._unread_s()
            if not self._is_too_late(plain.criticality):
                return False
        answer = self._popular(plain, was_held=was_held)
        if answer is None:
            self._note_refusal(plain.criticality)
            answer = refusal()
        self.transport.write(answer)
        if self._read_timer is not None:  # the connection's first request
            self._expect_nothing()
            self._stay()
        return True

    def _popular(self, plain: Plain, *, was_held: bool) -> bytes | None:
        guard = self._guard
        waited_s = time.monotonic() - self._came_at
        if not guard.has_popular(plain.criticality, waited_s, has_rested=was_held):
            return None
        answer = guard.popular(plain, self.server_state.default_headers)
        if answer is not None:
            guard.num_popular += 1
            guard.num_popular_left -= 1
            self._rests_until = self.loop.time()
        return answer

    def _note_refusal(self, criticality: Criticality) -> None:
        self._guard.num_refused[criticality] += 1
        self._rests_until = self.loop.time() + self._guard.rest_s

    def _is_one_too_many(self, criticality: Criticality) -> bool:
        return self._guard.is_one_too_many(criticality, len(self.tasks))

    def _is_too_late(self, criticality: Criticality) -> bool:
        waited_s = time.monotonic() - self._came_at
        return self._guard.is_too_late(criticality, waited_s, len(self.tasks))

    def _is_begun_too_late(self, cycle: RequestResponseCycle) -> bool:
        if time.monotonic() - self._came_at < self._guard.least_patience_s:
            return False
        criticality = _criticality(cycle)
        if criticality is None or not self._is_too_late(criticality):
            return False
        self._note_refusal(criticality)
        return True

    def _unread_s(self) -> float:
        """For how long what was just read lay in the kernel's buffer, as far as that can tell."""
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

    def _listen(self) -> None:
        """To what was held, as if it came now: those who do not wait are served, if late."""
        data, self._held = self._held, b""
        if not data or self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._came_at = time.monotonic()
        if self._is_draining or not self._is_answered_unread(data, was_held=True):
            self._read(data)

    def _stay(self) -> None:
        """For as long as a connection is kept after an answer, counted from its last refusal."""
        ends_at = self._rests_until + self.timeout_keep_alive
        self.timeout_keep_alive_task = self.loop.call_at(ends_at, self.timeout_keep_alive_handler)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self, status: int) -> None:
        """Answer and close; only close where an answer has begun."""
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
        """Counts from its first byte, or from the connection's making: dribbling gains nothing."""
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(timeout_s, self._has_dawdled)

    def _expect_nothing(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _has_dawdled(self) -> None:
        if self._is_arriving:
            self._give_up(408)
        else:
            self.transport.abort()

    def _expect_reader(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def _reader_moves(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _criticality(cycle: RequestResponseCycle) -> Criticality | None:
    return criticality_of(cycle.scope["path"], cycle.scope["headers"])
