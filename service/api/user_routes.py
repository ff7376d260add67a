"""What the service cannot do by itself and hands to a worker: to think about a user, or erase one.

Its own user of Redis may append to streams and delete nothing.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from service.api.params import CurrentServing, UserId
from service.api.requests import ThinkRequest
from service.api.responses import Accepted
from service.problems import (
    BAD_JSON,
    NOT_ACCEPTED,
    NOT_FOUND,
    STORE_DOWN,
    TOO_LARGE,
    problem_responses,
)

router = APIRouter(prefix="/v1/users")


@router.post(
    "/{user_id:path}/think",
    summary="Have a user thought about now",
    status_code=202,
    response_model=Accepted,
    responses=problem_responses(
        {400: BAD_JSON, 404: NOT_FOUND, 413: TOO_LARGE, 422: NOT_ACCEPTED, 503: STORE_DOWN}
    ),
)
async def think(
    request: Request,
    serving: CurrentServing,
    user_id: UserId,
    body: Annotated[ThinkRequest | None, Body()] = None,
) -> Response:
    """Within seconds, while a worker runs; answers are then built from the new thought.

    A user without a history is not thought about.
    """
    await serving.request_thinking(user_id, body.instruction if body is not None else None)
    return _accepted(request, user_id)


@router.delete(
    "/{user_id:path}",
    summary="Erase a user",
    status_code=202,
    response_model=Accepted,
    responses=problem_responses({404: NOT_FOUND, 422: NOT_ACCEPTED, 503: STORE_DOWN}),
)
async def erase(request: Request, serving: CurrentServing, user_id: UserId) -> Response:
    """History, records, thoughts and archive, by a worker; no repair brings them back.

    From now on this process serves nothing of the user, the others do not within a second. Events
    that come before the worker is through are erased as well.
    """
    await serving.request_erasure(user_id)
    return _accepted(request, user_id)


def _accepted(request: Request, user_id: str) -> Response:
    answer = Accepted(request_id=request.state.request_id, user_id=user_id)
    return Response(answer.model_dump_json(), 202, media_type="application/json")
