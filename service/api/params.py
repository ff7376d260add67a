"""Types of ids, times and counts; parameters of routes: serving process, user id, timeout."""

import math
import time
from functools import cache
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator, BeforeValidator, Field
from starlette.exceptions import HTTPException

from models.errors import InvalidUserId
from models.ids import MAX_ID_BYTES
from models.store.events import check_user_id
from service.serving import Serving

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_EVENT_ID_CHARS = 128
LAST_SECOND = 253_402_300_799  # end of the year 9999: the largest time that the schema shows
MAX_AHEAD_S = 24 * 3600  # of a client's clock
TimeoutMs = Annotated[int, Field(ge=1, le=60_000)]


def _to_integer(value: object) -> object:
    """Accept 5.0 as an integer, as JSON Schema does; booleans stay booleans."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE_NUMBER = BeforeValidator(_to_integer)  # after Field(...): before it, it hides the limits


def _check_seconds(seconds: int) -> int:
    """Reject a time in the future: such an event would stay the newest one of its history."""
    latest = int(time.time()) + MAX_AHEAD_S
    if seconds <= latest:
        return seconds
    units = [name for name, each in _FINER_UNITS.items() if seconds // each <= latest]
    hint = f"; it looks like {units[0]}" if units else ""
    raise ValueError(f"{seconds} is over a day ahead, expected unix seconds up to {latest}{hint}")


_FINER_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
UnixSeconds = Annotated[
    int,
    Field(ge=0, json_schema_extra={"maximum": LAST_SECOND}),
    AfterValidator(_check_seconds),
    WHOLE_NUMBER,
]


def _check_id(value: str) -> str:
    """Check an id by the one rule for users, items and events."""
    try:
        check_user_id(value)
    except InvalidUserId as exc:
        raise ValueError(str(exc).removeprefix("user ")) from exc
    return value


ID_SCHEMA: dict[str, Any] = {"minLength": 1, "maxLength": MAX_ID_BYTES, "format": "opaque-id"}
USER_ID_SCHEMA = ID_SCHEMA | {
    "description": "Opaque: 1 to 256 bytes of UTF-8, no control characters.",
    "examples": ["A2CG5Y82ZZNY6W"],
}
UserIdText = Annotated[str, AfterValidator(_check_id), Field(json_schema_extra=USER_ID_SCHEMA)]
ItemIdText = Annotated[str, AfterValidator(_check_id), Field(json_schema_extra=ID_SCHEMA)]
EventIdText = Annotated[
    str,
    AfterValidator(_check_id),
    Field(max_length=MAX_EVENT_ID_CHARS, json_schema_extra=ID_SCHEMA | {"maxLength": 128}),
]
EventType = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,32}$")]
MAX_EVENT_VALUE = 1e15
EventValue = Annotated[float, Field(ge=-MAX_EVENT_VALUE, le=MAX_EVENT_VALUE)]


def _to_float(value: object) -> object:
    """Accept integers of any size, as JSON Schema does; beyond all floats they are infinite."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


ANY_NUMBER = BeforeValidator(_to_float)

_ID = "{user_id}"

UserIdInPath = Annotated[
    str,
    Path(
        json_schema_extra=USER_ID_SCHEMA
        | {"description": f"{USER_ID_SCHEMA['description']} Percent-encoded."},
    ),
]
Timeout = Annotated[
    TimeoutMs | None,
    Header(
        alias=TIMEOUT_HEADER,
        description="Time budget of the caller in milliseconds. It can shorten the configured "
        "budget, not extend it. A rung that would be late is replaced by a cheaper one.",
        examples=[40],
    ),
]


class _IdPosition(NamedTuple):
    """Position of the user id in a route's raw path."""

    num_segments: int  # of the path, split at "/"
    at: int  # index of the segment with the id


def read_user_id(request: Request) -> str:
    """Return the user id from the raw path.

    The decoded path would not do: servers decode `%2F` to `/` and invalid bytes to U+FFFD.
    Raises InvalidUserId, or HTTPException 404 if a raw `/` makes it a different path.
    """
    place = _position_of_id(request.scope["route"].path_format)
    segments = request.scope["raw_path"].split(b"/")
    if len(segments) != place.num_segments:
        raise HTTPException(404)
    try:
        exact = unquote_to_bytes(segments[place.at]).decode()
    except UnicodeDecodeError as exc:
        raise InvalidUserId("not UTF-8") from exc
    check_user_id(exact)
    return exact


@cache
def _position_of_id(path_format: str) -> _IdPosition:
    segments = path_format.split("/")
    return _IdPosition(len(segments), segments.index(_ID))


async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _user_id(request: Request, user_id: UserIdInPath) -> str:
    return read_user_id(request)


CurrentServing = Annotated[Serving, Depends(_serving)]
UserId = Annotated[str, Depends(_user_id)]
