"""Refusing what would only wait too long, for next to nothing.

A flood is refused where it arrives: most requests before they are parsed, the rest before anything
of ours runs. Knows bytes, and paths by their beginning; whether there is a flood is the limiter's.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.problems import problem
from service.reasons import Criticality

CRITICALITY_HEADER = "X-Criticality"
CRITICALITY_NAME = CRITICALITY_HEADER.lower().encode()
FLOODED = "more requests wait than can be answered in time"
RETRY_AFTER_S = 1

_LINE = b"\r\nx-criticality:"
_WHOLE_GET = re.compile(rb"GET (?:/v1)?/recommend/[^\r\n]* HTTP/1\.1\r\n")
_NEVER_REFUSED = ("/health/", "/metrics")
_NO_ID = b"0123456789abcdef"
_KINDS = {each.value.encode(): each for each in Criticality}


class Guard(NamedTuple):
    """What connections ask the rest of the process.

    is_flooded: of a kind of request and the number of those that are here already, whether it is
    better refused. on_refusal: called for each that is. rest_s: for how long a connection is not
    read from behind a refusal: without that, refusing those who ask again at once would take all
    the time there is.
    """

    is_flooded: Callable[[Criticality, int], bool]
    on_refusal: Callable[[Criticality], None]
    rest_s: Callable[[], float]


def read_criticality(value: bytes | None) -> Criticality:
    """An unknown word means `default`: a hint fails no request."""
    return _KINDS.get(value.strip().lower(), Criticality.DEFAULT) if value else Criticality.DEFAULT


def unread_criticality(data: bytes) -> Criticality | None:
    """Of bytes that are one whole GET of a recommendation, unparsed; None if they are not."""
    if not _WHOLE_GET.match(data) or data.find(b"\r\n\r\n") != len(data) - 4:
        return None
    _, _, behind = data.lower().partition(_LINE)
    return read_criticality(behind.partition(b"\r")[0])


def criticality_of(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Criticality | None:
    """Of a parsed request; None for one that is never refused."""
    if path.startswith(_NEVER_REFUSED):
        return None
    return read_criticality(dict(headers).get(CRITICALITY_NAME))


def refusal() -> bytes:
    """An answer as it goes over the wire, with an id of its own."""
    return _REFUSAL.replace(_NO_ID, secrets.token_hex(8).encode())


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """The same as an ASGI application."""
    await _answer(secrets.token_hex(8))(scope, receive, send)


def _answer(request_id: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(503, FLOODED, request_id=request_id, headers=headers)


def _written(answer: Response) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    return b"HTTP/1.1 503 Service Unavailable\r\n" + head.encode() + b"\r\n" + bytes(answer.body)


_REFUSAL = _written(_answer(_NO_ID.decode()))  # written once: a flood has no time for it
