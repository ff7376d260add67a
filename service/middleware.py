"""Around every request: its id, its count, its size, and a problem instead of a bare 500.

Pure ASGI, as `BaseHTTPMiddleware` hides client disconnects. Knows nothing of the routes but the
name that they leave in the scope.
"""

import logging
import re
import secrets
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import RequestLog, request_id_var
from service.metrics import Metrics
from service.problems import problem

MAX_BODY_BYTES = 64 * 1024
_NAME = b"x-request-id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
logger = logging.getLogger(__name__)


class RequestContext:
    """Puts `request_id` into the request's state; a caller's own id is kept if it is harmless."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: RequestLog | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        request_id_var.set(request_id)
        began_at = time.monotonic()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_NAME, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if status is not None:
                raise
            answer = problem(500, "this is a bug of the service", request_id=request_id)
            await answer(scope, receive, send_with_id)
        finally:
            self._count(scope, status, time.monotonic() - began_at)

    def _count(self, scope: Scope, status: int | None, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        source = scope["state"].get("source", "")
        if status is not None:
            self._metrics.request(route=route, source=source, status=status)
            if self._log is not None:
                self._log.write(scope, route=route, source=source, status=status, seconds=seconds)


class BodyLimit:
    """Refuses a body above MAX_BODY_BYTES with 413 as it is read, whatever its headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, f"bodies are limited to {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, receive_bounded, send)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _NAME:
            given: str = value.decode("latin-1")
            return given if _ACCEPTED.fullmatch(given) else secrets.token_hex(8)
    return secrets.token_hex(8)
