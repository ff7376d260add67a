"""Routes of recommendations: for one user, for a posted history, for many users.

Validation and JSON only; the pipeline makes every decision.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.errors import InvalidUserId
from models.store.events import Event, check_event, check_user_id
from service.api.params import (
    TIMEOUT_HEADER,
    CurrentServing,
    Timeout,
    TimeoutMs,
    UserIdInPath,
    read_user_id,
)
from service.api.query_names import StrictRoute, check_query_names
from service.api.recommendation import server_timing, write_recommendation
from service.api.requests import ForHistory, ForUser, ForUsers, RecommendQuery
from service.api.responses import BatchEntry, Recommendation, RecommendationBatch
from service.problems import (
    BAD_JSON,
    BUG,
    GONE,
    NOT_ACCEPTED,
    NOT_FOUND,
    TOO_LARGE,
    problem_responses,
)
from service.recommend import pipeline
from service.serving import Serving

_TIMEOUT_NAME = TIMEOUT_HEADER.lower().encode()
_TIMEOUT: TypeAdapter[int] = TypeAdapter(TimeoutMs)
_DEFAULTS = RecommendQuery()
_UNSTORED_PREFIX = "\x1f"  # of event ids; stored event ids contain no control character
_RequestModel = RecommendQuery | ForUser | ForHistory | ForUsers
logger = logging.getLogger(__name__)


class DirectRoute(APIRoute):
    """The route of `recommend`, documented by its signature and called without FastAPI's binding.

    FastAPI's general argument binding takes 0.3 ms a request; `recommend` has three arguments.
    Its stacks for dependencies and its second layer of exception handlers are left out too.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = _answer_directly


async def _answer_directly(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    response = await recommend(
        request, read_user_id(request), _read_query(request), _read_timeout(request)
    )
    await response(scope, receive, send)


class JsonAnswer(Response):
    """A whole JSON body with status 200, whose headers are written as bytes at once."""

    def __init__(self, body: bytes, *, timing: str) -> None:
        self.status_code, self.background = 200, None
        self.body = body
        self.raw_headers = [
            (b"server-timing", timing.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]


hot_router = APIRouter(route_class=DirectRoute)
router = APIRouter(prefix="/v1", route_class=StrictRoute)


@hot_router.get(
    "/recommend/{user_id:path}",
    summary="Recommend items to a user",
    response_model=Recommendation,
    responses=problem_responses({404: NOT_FOUND, 410: GONE, 422: NOT_ACCEPTED}),
)
async def recommend(
    request: Request,
    user_id: UserIdInPath,
    query: Annotated[RecommendQuery, Query()],
    timeout_ms: Timeout = None,
) -> Response:
    """Return 200 for every valid request. `source` and `degraded` tell the answer's quality."""
    serving: Serving = request.app.state.serving
    return await _answer(
        request, serving, _to_query(request, user_id, query), query.cursor, timeout_ms
    )


@router.post(
    "/recommend",
    summary="Recommend for a history, a session, or with many excluded items",
    response_model=Recommendation,
    responses=problem_responses(
        {400: BAD_JSON, 404: NOT_FOUND, 410: GONE, 413: TOO_LARGE, 422: NOT_ACCEPTED}
    ),
)
async def recommend_for(
    request: Request,
    serving: CurrentServing,
    body: Annotated[ForUser | ForHistory, Body()],
    timeout_ms: Timeout = None,
) -> Response:
    """Recommend to a stored user with the events of a session, or for the caller's own history.

    The body is not stored.
    """
    if isinstance(body, ForUser):
        query = _to_query(request, body.user_id, body, _session_events(body))
    else:
        query = _to_query(request, None, body, _history_events(body))
    return await _answer(request, serving, query, body.cursor, timeout_ms)


@router.post(
    "/recommend:batch",
    summary="Recommend items to up to 100 users",
    response_model=RecommendationBatch,
    responses=problem_responses({400: BAD_JSON, 404: NOT_FOUND, 413: TOO_LARGE, 422: NOT_ACCEPTED}),
)
async def recommend_batch(
    request: Request, serving: CurrentServing, body: ForUsers, timeout_ms: Timeout = None
) -> Response:
    """Return one answer and one status per user.

    Each user has the time budget of a single request. `X-Request-Timeout-Ms` limits the whole
    batch: when it runs short, the remaining users get a cheaper rung.
    """
    queries = [_to_query(request, user_id, body) for user_id in body.user_ids]
    results = await _answer_all(request, serving, queries, timeout_ms)
    answer = RecommendationBatch(request_id=request.state.request_id, results=results)
    return Response(orjson.dumps(answer), media_type="application/json")


def _to_query(
    request: Request, user_id: str | None, body: _RequestModel, events: tuple[Event, ...] = ()
) -> pipeline.Query:
    return pipeline.Query(
        user_id,
        body.n,
        exclude_seen=body.exclude_seen,
        explain=body.explain,
        exclude=body.exclude,
        category=body.category,
        mode=body.mode,
        criticality=request.scope["state"]["criticality"],
        events=events,
    )


async def _answer(
    request: Request,
    serving: Serving,
    query: pipeline.Query,
    cursor: str | None,
    timeout_ms: int | None,
) -> Response:
    if cursor is not None:
        after = serving.cursors.read(cursor, now_s=time.time(), query=query.digest)
        query = replace(query, after=after)
    state = request.scope["state"]
    served = await serving.pipeline.recommend(
        query, timeout_ms=timeout_ms, came_at=state.get("came_at")
    )
    state["source"], state["seconds"] = served.source.value, served.seconds
    answer = write_recommendation(
        served, serving.cursors, user_id=query.user_id, request_id=state["request_id"]
    )
    return JsonAnswer(orjson.dumps(answer), timing=server_timing(served))


async def _answer_all(
    request: Request, serving: Serving, queries: Sequence[pipeline.Query], timeout_ms: int | None
) -> list[BatchEntry]:
    """Answer one user after another, so that a batch takes one place in the queue."""
    ends_at = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    results = []
    for query in queries:
        left_ms = None
        if ends_at is not None:
            left_ms = max(int(1000 * (ends_at - time.monotonic())), 1)
        results.append(await _answer_one(request, serving, query, left_ms))
    return results


async def _answer_one(
    request: Request, serving: Serving, query: pipeline.Query, timeout_ms: int | None
) -> BatchEntry:
    request_id, user_id = request.state.request_id, str(query.user_id)
    try:
        check_user_id(user_id)
        served = await serving.pipeline.recommend(query, timeout_ms=timeout_ms)
    except InvalidUserId as exc:
        return BatchEntry(user_id=user_id, status=422, detail=str(exc))
    except Exception:  # the other users of the batch still get their answers
        logger.exception("an entry of request %s failed", request_id)
        return BatchEntry(user_id=user_id, status=500, detail=BUG)
    answer = write_recommendation(served, serving.cursors, user_id=user_id, request_id=request_id)
    return BatchEntry(user_id=user_id, status=200, recommendation=answer)


def _history_events(body: ForHistory) -> tuple[Event, ...]:
    """Return the history as events, oldest first.

    An item without a timestamp takes the timestamp of the item before it.
    """
    events, timestamp = [], 0
    for at, item in enumerate(body.history):
        item_id, stamp = (item, None) if isinstance(item, str) else (item.item_id, item.timestamp)
        timestamp = timestamp if stamp is None else stamp
        events.append(Event(item_id, timestamp, f"{_UNSTORED_PREFIX}{at}"))
    return tuple(sorted(events, key=lambda event: event.timestamp))


def _session_events(body: ForUser) -> tuple[Event, ...]:
    """Return the session as events. Raises InvalidRecord for an event that cannot be stored."""
    now_s, events = int(time.time()), []
    for at, action in enumerate(body.session):
        stamp = now_s if action.timestamp is None else action.timestamp
        check_event(Event(action.item_id, stamp, action.event_id or secrets.token_hex(8)))
        events.append(Event(action.item_id, stamp, action.event_id or f"{_UNSTORED_PREFIX}{at}"))
    return tuple(events)


def _read_query(request: Request) -> RecommendQuery:
    """Parse the query string. Raises RequestValidationError, as FastAPI does."""
    if not request.scope["query_string"]:
        return _DEFAULTS
    params: dict[str, Any] = dict(request.query_params)
    if "exclude" in params:
        params["exclude"] = request.query_params.getlist("exclude")
    try:
        return RecommendQuery.model_validate(params)
    except ValidationError as exc:
        check_query_names(request, RecommendQuery.model_fields)
        raise _validation_error(exc, "query") from exc


def _read_timeout(request: Request) -> int | None:
    for name, value in request.scope["headers"]:
        if name == _TIMEOUT_NAME:
            try:
                return _TIMEOUT.validate_python(value.decode("latin-1"))
            except ValidationError as exc:
                raise _validation_error(exc, "header", TIMEOUT_HEADER) from exc
    return None


def _validation_error(exc: ValidationError, *where: str) -> RequestValidationError:
    return RequestValidationError(
        [{**error, "loc": (*where, *error["loc"])} for error in exc.errors()]
    )
