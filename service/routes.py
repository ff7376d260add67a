"""The routes: what may be asked, and how an answer is written down.

Validation and JSON only; every decision is the pipeline's.
"""

import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from models.errors import InvalidUserId
from models.events import Event, check_event, check_user_id
from service import pipeline
from service.ladder import RECORDED
from service.middleware import MAX_BODY_BYTES
from service.pipeline import Served
from service.problems import NOT_ACCEPTED, documented, problem
from service.schemas import (
    Alive,
    ExperimentArm,
    Generation,
    Item,
    NewEvent,
    PathText,
    Ready,
    Recommendation,
    RecommendQuery,
    TakenEvent,
    TimeoutMs,
    Timings,
)
from service.serving import Serving

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_TIMEOUT_NAME = TIMEOUT_HEADER.lower().encode()
_TIMEOUT: TypeAdapter[int] = TypeAdapter(TimeoutMs)
_DEFAULTS = RecommendQuery()
_NUM_SEGMENTS = 3  # of the raw path of a user: "", "recommend" or "events", the id


class _BoundByHand(APIRoute):
    """The route of `recommend`: documented by its signature like any other, called without FastAPI.

    Its general way of binding arguments takes 0.3 ms a request, and this one has three.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            return await recommend(
                request, _exact_user_id(request), _read_query(request), _read_timeout(request)
            )

        return handle


router = APIRouter()
hot_router = APIRouter(route_class=_BoundByHand)

UserIdText = Annotated[
    str,
    Path(
        description="Opaque: 1 to 256 bytes of UTF-8, percent-encoded, no control characters.",
        examples=["A2CG5Y82ZZNY6W"],
    ),
]


async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _user_id(request: Request, user_id: UserIdText) -> str:
    return _exact_user_id(request)


CurrentServing = Annotated[Serving, Depends(_serving)]
UserId = Annotated[str, Depends(_user_id)]


@hot_router.get(
    "/recommend/{user_id:path}",
    summary="Recommend items to a user",
    response_model=Recommendation,
    responses=documented({404: "Not Found", 422: NOT_ACCEPTED}),
)
async def recommend(
    request: Request,
    user_id: UserIdText,
    query: Annotated[RecommendQuery, Query()],
    timeout_ms: Annotated[
        TimeoutMs | None,
        Header(
            alias=TIMEOUT_HEADER,
            description="Milliseconds that the caller has. It shortens the configured budget, "
            "never lengthens it; a rung that would come late is passed over for a cheaper one.",
            examples=[40],
        ),
    ] = None,
) -> Response:
    """Always 200 for a valid request: see `source` and `degraded` for what the answer is worth."""
    serving: Serving = request.app.state.serving
    asked = pipeline.Query(
        user_id,
        query.n,
        exclude_seen=query.exclude_seen,
        explain=query.explain,
        exclude=query.exclude,
        category=query.category,
        mode=query.mode,
        criticality=request.scope["state"]["criticality"],
    )
    served = await serving.recommend(asked, timeout_ms=timeout_ms)
    state = request.scope["state"]
    state["source"] = served.source.value
    answer = write_recommendation(served, user_id=user_id, request_id=state["request_id"])
    return Response(orjson.dumps(answer), media_type="application/json")


def _exact_user_id(request: Request) -> str:
    """The id as the caller wrote it: servers decode `%2F` to `/` and bad bytes to U+FFFD."""
    segments = request.scope["raw_path"].split(b"/")
    if len(segments) != _NUM_SEGMENTS:
        raise HTTPException(404)
    try:
        exact = unquote_to_bytes(segments[-1]).decode()
    except UnicodeDecodeError as exc:
        raise InvalidUserId("not UTF-8") from exc
    check_user_id(exact)
    return exact


def _read_query(request: Request) -> RecommendQuery:
    """Raises RequestValidationError as FastAPI would, as does the next."""
    if not request.scope["query_string"]:
        return _DEFAULTS
    params: dict[str, Any] = dict(request.query_params)
    if "exclude" in params:
        params["exclude"] = request.query_params.getlist("exclude")
    try:
        return RecommendQuery.model_validate(params)
    except ValidationError as exc:
        raise _refusal(exc, "query") from exc


def _read_timeout(request: Request) -> int | None:
    for name, value in request.scope["headers"]:
        if name == _TIMEOUT_NAME:
            try:
                return _TIMEOUT.validate_python(value.decode("latin-1"))
            except ValidationError as exc:
                raise _refusal(exc, "header", TIMEOUT_HEADER) from exc
    return None


def _refusal(exc: ValidationError, *where: str) -> RequestValidationError:
    return RequestValidationError(
        [{**error, "loc": (*where, *error["loc"])} for error in exc.errors()]
    )


@router.post(
    "/events/{user_id:path}",
    summary="Append to a user's history",
    response_model=TakenEvent,
    responses={
        202: {
            "description": "Taken by this process, not stored yet: the store is away",
            "model": TakenEvent,
        },
        **documented(
            {
                400: "There was an error parsing the body",
                404: "Not Found",
                413: f"bodies are limited to {MAX_BODY_BYTES} bytes",
                422: NOT_ACCEPTED,
                503: "the store is away and 10000 events wait for it already",
            }
        ),
    },
)
async def append_event(
    request: Request, serving: CurrentServing, user_id: UserId, body: NewEvent
) -> Response:
    """The next recommendation uses it. Retrying with the same `event_id` adds nothing."""
    event = Event(
        item_id=body.item_id,
        timestamp=int(time.time()) if body.timestamp is None else body.timestamp,
        event_id=body.event_id or secrets.token_hex(16),
    )
    check_event(event)
    appended = await serving.append(user_id, event)
    taken = TakenEvent(
        request_id=request.state.request_id,
        user_id=user_id,
        known=serving.engine.catalog.row(body.item_id) is not None,
        **event._asdict(),
        **appended._asdict(),
    )
    status = 200 if appended.stored else 202
    return Response(taken.model_dump_json(), status, media_type="application/json")


@router.get("/health/live", summary="Whether the process answers")
async def live() -> Alive:
    return Alive()


@router.get(
    "/health/ready",
    summary="Whether to send traffic here",
    response_model=Ready,
    responses=documented({503: "the self-test has not finished"}),
)
async def ready(request: Request, serving: CurrentServing) -> Response:
    """Ready once the `global` and `popular` rungs have passed a self-test.

    Never asks the store: an outage must not unready every instance at once.
    """
    if serving.unready is not None:
        return problem(503, serving.unready, request_id=request.state.request_id)
    epoch = serving.manifest.current.epoch if serving.manifest.current else None
    answer = Ready(release=serving.engine.label, manifest_epoch=epoch)
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(serving: CurrentServing) -> Response:
    return Response(serving.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def write_recommendation(served: Served, *, user_id: str, request_id: str) -> Recommendation:
    """The answer in the words of the API."""
    answer = Recommendation(
        request_id=request_id,
        user_id=user_id,
        source=served.source,
        degraded=served.is_degraded,
        generation=_generation(served),
        release=served.engine.label,
        experiment=[ExperimentArm(name=name, arm=arm) for name, arm, _ in served.exposures],
        items=_items(served),
        paths=[PathText(path=path, text=text) for path, text in enumerate(served.thoughts or ())],
        timings_ms=_timings(served),
    )
    if served.thoughts is None:
        del answer["paths"]  # agreed to stand before the timings, when it is there
    return answer


def _timings(served: Served) -> Timings:
    milliseconds = {stage: round(1000 * s, 3) for stage, s in served.seconds.items()}
    return cast("Timings", milliseconds)  # the pipeline names the stages that the API documents


def _generation(served: Served) -> Generation | None:
    if served.record is None:
        return None
    return Generation(
        id=served.record.generation,
        created_at=served.record.created_at,
        age_s=max(int(served.record_age_s), 0),
    )


def _items(served: Served) -> list[Item]:
    catalog, record = served.engine.catalog, served.record
    sids = catalog.sids[[pick.row for pick in served.picks]].tolist()
    paths = {prefix.codes: prefix.path for prefix in record.prefixes} if record else {}
    depth = catalog.space.prefix_depth
    return [
        Item(
            item_id=catalog.item_ids[pick.row],
            rank=rank,
            score=pick.logprob,
            sid=sid,
            source=pick.source,
            title=catalog.titles[pick.row],
            path=paths.get(tuple(sid[:depth])) if pick.source in RECORDED else None,
        )
        for rank, (pick, sid) in enumerate(zip(served.picks, sids, strict=True), start=1)
    ]
