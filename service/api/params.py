"""Parameters of routes: the serving process, the user id of the path, the caller's timeout."""

from functools import cache
from typing import Annotated, NamedTuple
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Header, Path, Request
from starlette.exceptions import HTTPException

from models.errors import InvalidUserId
from models.store.events import check_user_id
from service.api.requests import USER_ID_SCHEMA, TimeoutMs
from service.serving import Serving

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
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
