"""Middleware around every request: request id, trace, metrics, body limit, errors 500.

Pure ASGI, because `BaseHTTPMiddleware` hides client disconnects. Of the routes it knows only the
path template in the scope.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import BUG, problem
from service.telemetry.logs import RequestLog, request_id_var
from service.telemetry.metrics import Metrics
from service.telemetry.request_headers import (
    CRITICALITY_NAME,
    REQUEST_ID_HEADER,
    TRACE_HEADER,
    accept_request_id,
    continue_trace,
    read_criticality,
)

if TYPE_CHECKING:
    from service.telemetry.otel import SpanRecorder  # needs the extra `otel`

MAX_BODY_BYTES = 64 * 1024
CLIENT_GONE = 499  # status in logs and metrics, as in nginx; it is not sent
MAX_LONG_BODY_BYTES = 1024 * 1024  # of the paths below, which take lists
_LIST_PATHS = ("/v1/recommend", "/v1/recommend:batch", "/v1/events:batch", "/v1/items")
_CLOSE_HEADER = (b"connection", b"close")
logger = logging.getLogger(__name__)


class RequestContext:
    """Puts `request_id`, `trace` and `criticality` into the request's state.

    A valid request id or trace of the caller is kept. Both are returned as response headers.

    Args:
        app: the next ASGI application.
        metrics: counts each request.
        log: writes one line per request; None: no lines.
        is_draining: True while each response should close its connection.
        spans: records a span per request; None: no spans.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log: RequestLog | None = None,
        is_draining: Callable[[], bool] = lambda: False,
        spans: "SpanRecorder | None" = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._is_draining = is_draining
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        request_id = accept_request_id(given.get(REQUEST_ID_HEADER)) or secrets.token_hex(8)
        trace = continue_trace(given.get(TRACE_HEADER))
        state = scope.setdefault("state", {})
        state["request_id"], state["trace"] = request_id, trace
        state["criticality"] = read_criticality(given.get(CRITICALITY_NAME))
        own = ((REQUEST_ID_HEADER, request_id.encode()), (TRACE_HEADER, trace.header))
        request_id_var.set(request_id)
        began_at = time.monotonic()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *own]
                if self._is_draining():
                    message["headers"].append(_CLOSE_HEADER)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            status = status or CLIENT_GONE
            raise
        except Exception:
            logger.exception("request %s failed", request_id)
            if status is not None:
                raise
            answer = problem(500, BUG, request_id=request_id)
            await answer(scope, receive, send_with_id)
        finally:
            self._count(scope, status, time.monotonic() - began_at)

    def _count(self, scope: Scope, status: int | None, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        source = scope["state"].get("source", "")
        if status is not None:
            self._metrics.count_request(route=route, source=source, status=status)
            if self._log is not None:
                self._log.write(scope, route=route, source=source, status=status, seconds=seconds)
            if self._spans is not None:
                self._spans.record(scope, route=route, status=status, seconds=seconds)


class BodyLimit:
    """Reject a body longer than its path allows, while it is read, independent of its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0
        limit = MAX_LONG_BODY_BYTES if scope.get("path") in _LIST_PATHS else MAX_BODY_BYTES

        async def receive_bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise HTTPException(413, f"bodies are limited to {limit} bytes")
            return message

        await self._app(scope, receive_bounded, send)
