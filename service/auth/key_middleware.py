"""ASGI middleware that checks API keys, scopes and rate limits before the routes.

Health, metrics, the API documentation and the files of /explore need no key. Every other path,
existing or not, needs a valid key, and the scope of its first segment.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from service.auth.api_keys import Allowance, Bucket, Caller, KeyRing, Scope
from service.problems import problem, problem_responses
from service.telemetry.metrics import Metrics

OPEN_PATHS = frozenset({"health", "metrics", "docs", "openapi.json"})
SCOPES: Mapping[str, Scope] = {
    "recommend": Scope.RECOMMEND,
    "recommend:batch": Scope.RECOMMEND,
    "events": Scope.EVENTS,
    "events:batch": Scope.EVENTS,
    "users": Scope.USERS,
    "items": Scope.ITEMS,
    "explore": Scope.ADMIN,  # it finds users and shows their histories
}
NO_KEY = "an API key is needed: `Authorization: Bearer KEY` or `X-Api-Key: KEY`"
UNKNOWN_KEY = "the API key is unknown or has expired"
TOO_FAST = "the rate limit of this client is exceeded"
_CHECK_EVERY_S = 1.0  # between looks at the key file
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="think-ahead"'}
logger = logging.getLogger(__name__)


class ApiKeyMiddleware:
    """Rejects requests without a valid key (401), scope (403) or rate token (429).

    Args:
        app: the next ASGI application.
        ring: the valid keys.
        metrics: counts each request by client and outcome.
        required_scope: scope for every path; None: the scope of the path in SCOPES.
        monotonic: clock in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        ring: KeyRing,
        metrics: Metrics,
        *,
        required_scope: Scope | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._ring = ring
        self._metrics = metrics
        self._required_scope = required_scope
        self._monotonic = monotonic
        self._next_check_at = 0.0

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        self._refresh_keys()
        key = _find_key(scope["headers"])
        caller = self._ring.find(key) if key else None
        needed = self._required_scope or SCOPES.get(_first_segment(scope["path"]))
        if caller is None:
            outcome = "unknown_key" if key else "no_key"
            refusal = _refuse(scope, 401, UNKNOWN_KEY if key else NO_KEY, _CHALLENGE)
        elif needed is not None and needed not in caller.scopes:
            outcome = "scope"
            detail = f"the API key of {caller.client} lacks the scope `{needed}`"
            refusal = _refuse(scope, 403, detail)
        else:
            scope["state"]["client"] = caller.client
            await self._serve(caller, scope, receive, send)
            return
        self._metrics.count_client_request(caller.client if caller else "", outcome)
        await refusal(scope, receive, send)

    async def _serve(self, caller: Caller, scope: AsgiScope, receive: Receive, send: Send) -> None:
        bucket = caller.bucket
        if bucket is None:
            self._metrics.count_client_request(caller.client, "taken")
            await self._app(scope, receive, send)
            return
        allowance = bucket.take()
        headers = _rate_headers(bucket, allowance)

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        self._metrics.count_client_request(
            caller.client, "taken" if allowance.is_granted else "rate"
        )
        if allowance.is_granted:
            await self._app(scope, receive, send_with_rate)
        else:
            wait = {"Retry-After": str(math.ceil(allowance.reset_s))}
            await _refuse(scope, 429, TOO_FAST, wait)(scope, receive, send_with_rate)

    def _refresh_keys(self) -> None:
        now = self._monotonic()
        if now < self._next_check_at:
            return
        self._next_check_at = now + _CHECK_EVERY_S
        before = self._ring.failure
        if self._ring.refresh():
            logger.info("reloaded the changed file of API keys")
        elif self._ring.failure not in (None, before):
            logger.error(
                "kept the old API keys, as the changed file is invalid: %s", self._ring.failure
            )


def take_token(ring: KeyRing, fields: Mapping[bytes, bytes], metrics: Metrics) -> bool:
    """Spend one rate token of the key in these headers, for one recommendation.

    Returns False, and counts nothing, if the key is missing or invalid, lacks the scope
    `recommend`, or has no token left.
    """
    caller = ring.find(key) if (key := _find_key(fields.items())) else None
    if caller is None or Scope.RECOMMEND not in caller.scopes:
        return False
    if caller.bucket is not None and not caller.bucket.take().is_granted:
        return False
    metrics.count_client_request(caller.client, "taken")
    return True


def document_keys(document: dict[str, Any]) -> None:
    """Add to an OpenAPI document both ways to send a key, and the error responses of each route.

    The empty security requirement stands for a service without keys.
    """
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    document["components"]["securitySchemes"] = schemes
    for path, operations in document["paths"].items():
        scope = SCOPES.get(_first_segment(path))
        for operation in operations.values() if scope else ():
            lacks = f"the API key of shop lacks the scope `{scope}`"
            refusals = problem_responses({401: NO_KEY, 403: lacks, 429: TOO_FAST})
            operation["responses"] |= {str(status): each for status, each in refusals.items()}
            operation["security"] = [{}, *({name: []} for name in schemes)]


def _is_open(path: str) -> bool:
    """Return True for a path that needs no key; the files of /explore hold no data."""
    if path == "/explore" or path.startswith("/explore/page/"):
        return True
    return _first_segment(path) in OPEN_PATHS


def _first_segment(path: str) -> str:
    """Return the first segment of a path, after the version if there is one."""
    parts = path.split("/", 3)
    if len(parts) > 2 and parts[1] == "v1":
        return parts[2]
    return parts[1] if len(parts) > 1 else ""


def _find_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip(), "latin-1")
        if name == b"x-api-key":
            return str(value.strip(), "latin-1")
    return None


def _rate_headers(bucket: Bucket, allowance: Allowance) -> list[tuple[bytes, bytes]]:
    """Return RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""
    now = f'"client";r={allowance.remaining};t={math.ceil(allowance.reset_s)}'
    return [(b"ratelimit-policy", bucket.policy), (b"ratelimit", now.encode())]


def _refuse(
    scope: AsgiScope, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    return problem(status, detail, request_id=scope["state"]["request_id"], headers=headers)
