"""Writes every error of the API as `application/problem+json` (RFC 9457).

Of the caller's input, an error repeats only the start of an id and the names of fields.
"""

import http
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from models.errors import (
    CursorGone,
    InvalidCursor,
    InvalidRecord,
    InvalidUserId,
    StoreUnavailable,
)

MEDIA_TYPE = "application/problem+json"
NOT_ACCEPTED = "some fields are invalid, see errors"
BAD_JSON = "There was an error parsing the body"
NOT_FOUND = "Not Found"
GONE = "the generation of this list is no longer live: begin again without a cursor"
TOO_LARGE = "bodies are limited to 65536 bytes"
STORE_AWAY = "the store is away and 10000 events wait for it already, expected at most 10000"
STORE_DOWN = "Redis at redis://localhost:6379/0: Connection refused"
BUG = "this is a bug of the service"
_MAX_ERRORS = 20
_MAX_WHERE = 200  # characters; unknown field names from the caller can have any length


class FieldError(BaseModel):
    where: str  # for example `query.n`
    what: str


class Problem(BaseModel):
    """An error response (RFC 9457)."""

    type: str = "about:blank"
    title: Annotated[str, Field(description="The status in words.")]
    status: int
    detail: Annotated[str, Field(description="The error of this request, for a human reader.")]
    request_id: str
    errors: list[FieldError] | None = None  # invalid fields, with status 422 only


def problem(
    status: int,
    detail: str,
    *,
    request_id: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = Problem(
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
        errors=list(errors) or None,
    )
    # json.dumps escapes lone surrogates, which a key of the caller's body may contain.
    text = json.dumps(body.model_dump(exclude_none=True))
    return Response(text, status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register a handler for each exception type that a route or the router raises."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(InvalidUserId, _on_user_id)
    app.add_exception_handler(InvalidCursor, _on_cursor)
    app.add_exception_handler(CursorGone, _on_gone)
    app.add_exception_handler(InvalidRecord, _on_event)
    app.add_exception_handler(StoreUnavailable, _on_store)


def problem_responses(details: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return `responses=` of a route: an example with `detail` per status, and 500 always."""
    every = {**details, 500: BUG}
    return {status: _documentation(status, detail) for status, detail in sorted(every.items())}


def _documentation(status: int, detail: str) -> dict[str, Any]:
    title = http.HTTPStatus(status).phrase
    example = Problem(title=title, status=status, detail=detail, request_id="0b6f7c1d9a3e4f52")
    if status == 422:
        what = "Input should be less than or equal to 100"
        example.errors = [FieldError(where="query.n", what=what)]
    content = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": example.model_dump(exclude_none=True),
    }
    return {"description": title, "content": {MEDIA_TYPE: content}}


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return problem(
        exc.status_code, exc.detail, request_id=request.state.request_id, headers=exc.headers
    )


async def _on_validation(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = [
        FieldError(where=".".join(map(str, error["loc"]))[:_MAX_WHERE], what=str(error["msg"]))
        for error in exc.errors()[:_MAX_ERRORS]
    ]
    return _invalid_fields(request, errors)


async def _on_user_id(request: Request, exc: Exception) -> Response:
    return _invalid_fields(request, [FieldError(where="path.user_id", what=str(exc))])


async def _on_cursor(request: Request, exc: Exception) -> Response:
    where = "body.cursor" if request.method == "POST" else "query.cursor"
    return _invalid_fields(request, [FieldError(where=where, what=str(exc))])


async def _on_gone(request: Request, exc: Exception) -> Response:
    return problem(410, str(exc), request_id=request.state.request_id)


async def _on_event(request: Request, exc: Exception) -> Response:
    return _invalid_fields(request, [FieldError(where="body", what=str(exc))])


def _invalid_fields(request: Request, errors: Sequence[FieldError]) -> Response:
    return problem(422, NOT_ACCEPTED, request_id=request.state.request_id, errors=errors)


async def _on_store(request: Request, exc: Exception) -> Response:
    return problem(503, str(exc), request_id=request.state.request_id, headers={"Retry-After": "1"})
