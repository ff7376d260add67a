"""The routes: what may be asked, and how an answer is written down.

Validation and JSON only; every decision is the pipeline's.
"""

import secrets
import time
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Path, Query, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from models.errors import InvalidUserId
from models.events import Event, check_event, check_user_id
from service import pipeline
from service.ladder import Pick
from service.middleware import MAX_BODY_BYTES
from service.pipeline import Served
from service.problems import NOT_ACCEPTED, documented, problem
from service.reasons import Source
from service.schemas import (
    MAX_ITEMS,
    Alive,
    Generation,
    Item,
    NewEvent,
    PathText,
    Ready,
    Recommendation,
    TakenEvent,
    Timings,
)
from service.serving import Serving

router = APIRouter()


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


def _user_id(
    request: Request,
    user_id: Annotated[
        str,
        Path(
            description="Opaque: 1 to 256 bytes of UTF-8, percent-encoded, no control characters.",
            examples=["A2CG5Y82ZZNY6W"],
        ),
    ],
) -> str:
    """The id as the caller wrote it: servers decode `%2F` to `/` and bad bytes to U+FFFD."""
    segments = request.scope["raw_path"].split(b"/")
    if len(segments) != len(request.scope["route"].path_format.split("/")):
        raise HTTPException(404)
    try:
        exact = unquote_to_bytes(segments[-1]).decode()
    except UnicodeDecodeError as exc:
        raise InvalidUserId("not UTF-8") from exc
    check_user_id(exact)
    return exact


CurrentServing = Annotated[Serving, Depends(_serving)]
UserId = Annotated[str, Depends(_user_id)]


@router.get(
    "/recommend/{user_id:path}",
    summary="Recommend items to a user",
    response_model=Recommendation,
    responses=documented({404: "Not Found", 422: NOT_ACCEPTED}),
)
async def recommend(
    request: Request,
    serving: CurrentServing,
    user_id: UserId,
    n: Annotated[int, Query(ge=1, le=MAX_ITEMS, description="How many items.")] = 10,
    explain: Annotated[bool, Query(description="Add the reasoning paths.")] = False,
    exclude_seen: Annotated[bool, Query(description="Leave out items of the history.")] = True,
) -> Response:
    """Always 200 for a valid request: see `source` and `degraded` for what the answer is worth."""
    query = pipeline.Query(user_id, n, exclude_seen=exclude_seen, explain=explain)
    served = await serving.recommend(query)
    request.state.source = served.source.value
    answer = write_recommendation(served, user_id=user_id, request_id=request.state.request_id)
    exclude = None if explain else {"paths"}
    return Response(answer.model_dump_json(exclude=exclude), media_type="application/json")


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
    milliseconds = {stage: round(1000 * s, 3) for stage, s in served.seconds.items()}
    texts = served.thoughts or ()
    return Recommendation(
        request_id=request_id,
        user_id=user_id,
        source=served.source,
        degraded=served.is_degraded,
        generation=_generation(served),
        release=served.engine.label,
        items=_items(served),
        paths=[PathText(path=path, text=text) for path, text in enumerate(texts)],
        timings_ms=Timings(**milliseconds),
    )


def _generation(served: Served) -> Generation | None:
    if served.record is None:
        return None
    return Generation(
        id=served.record.generation,
        created_at=served.record.created_at,
        age_s=max(int(served.record_age_s), 0),
    )


def _items(served: Served) -> list[Item]:
    record = served.record
    paths = {prefix.codes: prefix.path for prefix in record.prefixes} if record else {}
    return [_item(served, rank, pick, paths) for rank, pick in enumerate(served.picks, start=1)]


def _item(served: Served, rank: int, pick: Pick, paths: dict[tuple[int, ...], int]) -> Item:
    catalog = served.engine.catalog
    sid = catalog.sids[pick.row].tolist()
    has_path = pick.source in (Source.PERSONAL, Source.STALE)
    return Item(
        item_id=catalog.item_ids[pick.row],
        rank=rank,
        score=pick.logprob,
        sid=sid,
        source=pick.source,
        title=catalog.titles[pick.row],
        path=paths.get(tuple(sid[: catalog.space.prefix_depth])) if has_path else None,
    )
