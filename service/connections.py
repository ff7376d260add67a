"""One client's connection, bounded on every side, on top of uvicorn's protocol.

    silence    a request that is not whole after READ_TIMEOUT_S is 408, a reader that stands still
               for WRITE_TIMEOUT_S is closed
    size       a URL above MAX_URL_BYTES is 414, a head above MAX_HEAD_BYTES is 431
    number     MAX_CONNECTIONS a process; more are closed at once
    departure  a client that leaves takes its request along, out of the model's queue too
    flood      refused with 503 before it is parsed, or before anything of ours runs

Knows bytes and timers; nothing of what a request means.
"""

import asyncio
import secrets
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.flood import Guard, criticality_of, refusal, refuse, unread_criticality
from service.problems import problem
from service.reasons import Criticality

READ_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
MAX_URL_BYTES = 16 * 1024
MAX_HEAD_BYTES = 48 * 1024  # URL and headers together
MAX_CONNECTIONS = 10_000

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
        self._is_tired = False  # of a client that was just refused
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
        if self._is_refused_unread(data):
            return
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
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's plain text; nothing of the bytes is repeated."""
        self._give_up(self._status)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()  # to take what is left of the answer
        elif self._is_tired:
            self._is_tired = False
            self.flow.pause_reading()
            self.loop.call_later(self._guard.rest_s(), self._listen)

    def shutdown(self) -> None:
        """As uvicorn's, but a request that is arriving gets its answer, if it does not dawdle."""
        self._is_draining = True
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
        self.transport.abort()

    def _start_asgi_task(  # type: ignore[override]
        self, cycle: RequestResponseCycle, app: ASGIApp
    ) -> None:
        if self._may_be_flooded():
            criticality = criticality_of(cycle.scope["path"], cycle.scope["headers"])
            if criticality is not None and self._is_refused(criticality):
                app = refuse

        async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
            if cycle.disconnected:
                return
            self._running = asyncio.current_task()
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.transport.is_closing():
                    raise
                cycle.disconnected = True  # and nobody is told anything
            finally:
                self._running = None

        super()._start_asgi_task(cycle, until_gone)  # type: ignore[arg-type]

    def _is_refused_unread(self, data: bytes) -> bool:
        if not self._may_be_flooded() or self._is_busy() or self._is_arriving or self._is_draining:
            return False
        criticality = unread_criticality(data)
        if criticality is None or not self._is_refused(criticality):
            return False
        self._expect_nothing()
        self._unset_keepalive_if_required()
        self.transport.write(refusal())
        self.on_response_complete()
        return True

    def _may_be_flooded(self) -> bool:
        return self._guard.is_flooded(Criticality.SHEDDABLE, len(self.tasks))

    def _is_refused(self, criticality: Criticality) -> bool:
        if not self._guard.is_flooded(criticality, len(self.tasks)):
            return False
        self._guard.on_refusal(criticality)
        self._is_tired = True
        return True

    def _listen(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

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
