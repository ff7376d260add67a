"""Refusing what would only wait too long, for next to nothing.

A flood is refused where it arrives: most requests before they are parsed, the rest before anything
of ours runs. Knows bytes, and paths by their beginning; whether there is a flood is the limiter's.
"""

import itertools
import re
import secrets
from collections.abc import Iterable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.problems import problem
from service.reasons import Criticality

CRITICALITY_HEADER = "X-Criticality"
CRITICALITY_NAME = CRITICALITY_HEADER.lower().encode()
FLOODED = "more requests wait than can be answered in time"
RETRY_AFTER_S = 1

_LINE = b"\r\nx-criticality:"
_LENGTH = b"\r\ncontent-length:"
_START = re.compile(rb"(?:GET|POST) /(?!health/|metrics)[^\r\n]* HTTP/1\.1\r\n")
_SPECIAL = (b"\r\nconnection: close", b"\r\nconnection:close", b"\r\ntransfer-encoding:")
_NEVER_REFUSED = ("/health/", "/metrics")
_NO_ID = "0123456789abcdef"
_KINDS = {each.value.encode(): each for each in Criticality}


class Guard:
    """What connections need to know to refuse, and what they have refused.

    Plain numbers, renewed at every beat of the loop: a refusal has no time to ask for them.

    bounds: from how many requests in the process on one more of a kind is refused. tight: these
    bounds for a loop that is late. least: of `bounds`; 0 while the loop is late, when everybody is
    looked at. patience_s: for how long a request of a kind may have waited, unread or unbegun, and
    not be refused. rest_s: for how long a connection that was just refused is not heard: else those
    who ask again at once would take all the time there is.
    """

    __slots__ = (
        "bounds",
        "is_flooded",
        "is_late",
        "least",
        "least_patience_s",
        "num_refused",
        "patience_s",
        "rest_s",
        "tight",
    )

    def __init__(
        self,
        bounds: Mapping[Criticality, int],
        tight: Mapping[Criticality, int],
        patience_s: Mapping[Criticality, float],
    ) -> None:
        self.num_refused = dict.fromkeys(Criticality, 0)
        self.patience_s = patience_s
        self.least_patience_s = min(patience_s.values())
        self.renew(bounds, tight, is_late=False, is_flooded=False, rest_s=0.0)

    def renew(
        self,
        bounds: Mapping[Criticality, int],
        tight: Mapping[Criticality, int],
        *,
        is_late: bool,
        is_flooded: bool,
        rest_s: float,
    ) -> None:
        self.bounds, self.tight = bounds, tight
        self.is_late, self.is_flooded = is_late, is_flooded
        self.least = 0 if is_late else min(bounds.values())
        self.rest_s = rest_s

    def is_one_too_many(self, criticality: Criticality, num_present: int) -> bool:
        """num_present: requests read and not answered yet."""
        return num_present >= self.bounds[criticality]

    def is_too_late(self, criticality: Criticality, waited_s: float, num_present: int) -> bool:
        if waited_s <= self.patience_s[criticality]:
            return False
        return self.is_flooded or num_present >= self.tight[criticality]


def read_criticality(value: bytes | None) -> Criticality:
    """An unknown word means `default`: a hint fails no request."""
    return _KINDS.get(value.strip().lower(), Criticality.DEFAULT) if value else Criticality.DEFAULT


def unread_criticality(data: bytes) -> Criticality | None:
    """Of bytes that are one whole request, unparsed; None if they are not, or no plain one, or one
    that is never refused."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or not _START.match(data):
        return None
    fields = head.lower()
    if body and _value(fields, _LENGTH) != b"%d" % len(body):
        return None
    if any(special in fields for special in _SPECIAL) or (not body and _LENGTH in fields):
        return None
    return read_criticality(_value(fields, _LINE))


def _value(fields: bytes, line: bytes) -> bytes:
    _, _, behind = fields.partition(line)
    return behind.partition(b"\r")[0].strip()


def criticality_of(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Criticality | None:
    """Of a parsed request; None for one that is never refused."""
    if path.startswith(_NEVER_REFUSED):
        return None
    return read_criticality(dict(headers).get(CRITICALITY_NAME))


def refusal() -> bytes:
    """An answer as it goes over the wire, with an id of its own."""
    return _REFUSAL % (b"%s%08x" % (_OURS, next(_numbers) & 0xFFFFFFFF))


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """The same as an ASGI application."""
    await _answer(secrets.token_hex(8))(scope, receive, send)


def _answer(request_id: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(503, FLOODED, request_id=request_id, headers=headers)


def _written(answer: Response) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    return b"HTTP/1.1 503 Service Unavailable\r\n" + head.encode() + b"\r\n" + bytes(answer.body)


# Written once: a flood has no time for it, nor for the system's random numbers.
_REFUSAL = _written(_answer(_NO_ID)).replace(b"%", b"%%").replace(_NO_ID.encode(), b"%b")
_OURS = secrets.token_hex(4).encode()  # this process's; ids go on with a number
_numbers = itertools.count()
