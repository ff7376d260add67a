"""What can be told of a request before it is parsed: enough to answer it for next to nothing.

Only of bytes that are one whole request, and no more than they seem; all else is the parser's.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from service.sources import DEFAULT_ITEMS, Criticality

CRITICALITY_HEADER = "X-Criticality"
CRITICALITY_NAME = CRITICALITY_HEADER.lower().encode()
_NEVER_REFUSED = ("/health/", "/metrics")

_HEAD = re.compile(
    rb"(?:GET (?P<route>(?:/v1)?/recommend/)(?P<user>[A-Za-z0-9._~-]{1,256})"
    rb"(?:\?n=(?P<n>[0-9]{1,3}))?|(?:GET|POST) /(?!health/|metrics)[!-~]*) HTTP/1\.1"
    rb"(?P<fields>\r\n)(?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*\r\n"
)
_FIELD = re.compile(
    rb"\r\n(x-criticality|x-request-id|x-api-key|authorization|traceparent|connection|"
    rb"content-length|transfer-encoding):[ \t]*([^\r]*)",
    re.IGNORECASE,
)
_LENGTH, _CONNECTION, _CODING = b"content-length", b"connection", b"transfer-encoding"
_KINDS = {each.value.encode(): each for each in Criticality}


class Plain(NamedTuple):
    """route: of a GET for a user's recommendations that says nothing but how many, up to the user;
    None for any other request. fields: those headers that matter here, names in lower case."""

    criticality: Criticality
    route: bytes | None
    user_id: bytes
    num_items: int
    fields: dict[bytes, bytes]


def read_plain(data: bytes) -> Plain | None:
    """None if they are not one whole request, or no plain one, or one that is never refused."""
    head = _HEAD.match(data)
    if head is None:
        return None
    given = _FIELD.findall(data, head.start("fields"), head.end())
    fields = {name.lower(): value for name, value in given}
    if fields.get(_LENGTH, b"0").strip() != b"%d" % (len(data) - head.end()):
        return None
    if _CODING in fields or b"close" in fields.get(_CONNECTION, b"").lower():
        return None
    route, user_id, num = head.group("route", "user", "n")
    return Plain(
        read_criticality(fields.get(CRITICALITY_NAME)),
        route,
        user_id or b"",
        DEFAULT_ITEMS if num is None else int(num),
        fields,
    )


def read_criticality(value: bytes | None) -> Criticality:
    """An unknown word means `default`: a hint fails no request."""
    return _KINDS.get(value.strip().lower(), Criticality.DEFAULT) if value else Criticality.DEFAULT


def criticality_of(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Criticality | None:
    """Of a parsed request; None for one that is never refused."""
    if path.startswith(_NEVER_REFUSED):
        return None
    return read_criticality(dict(headers).get(CRITICALITY_NAME))
