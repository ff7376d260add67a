"""Routes that hand a user to a worker: to think about the user, or to erase the user.

The service's own Redis user may append to streams, but not delete.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from service.api.params import CurrentServing, UserId
from service.api.query_names import StrictRoute
from service.api.requests import ThinkRequest
from service.api.responses import Accepted, WishHeard
from service.problems import (
    BAD_JSON,
    NOT_ACCEPTED,
    NOT_FOUND,
    STORE_DOWN,
    TOO_LARGE,
    problem_responses,
)
from service.recommend.wish_dialogue import Heard

router = APIRouter(prefix="/v1/users", route_class=StrictRoute)


@router.post(
    "/{user_id:path}/think",
    summary="Request a new thought about a user",
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
    """Take a wish, and queue the user for a worker.

    A wish counts from the next answer on, with or without a worker. The thought takes seconds and
    needs a running worker: `workers` is 0 while there is none, and the user then waits for one. A
    user without a history is skipped.
    """
    body = body or ThinkRequest()
    heard = await serving.hear_wish(
        user_id, body.instruction, item_id=body.item_id, forgets=body.forget_wish
    )
    workers = await serving.request_thinking(user_id, body.instruction)
    return _accepted(request, user_id, workers, heard)


@router.delete(
    "/{user_id:path}",
    summary="Erase a user",
    status_code=202,
    response_model=Accepted,
    responses=problem_responses({404: NOT_FOUND, 422: NOT_ACCEPTED, 503: STORE_DOWN}),
)
async def erase(request: Request, serving: CurrentServing, user_id: UserId) -> Response:
    """Erase history, records, thoughts and archive, by a worker. A repair does not restore them.

    This process stops serving the user's data at once, other processes within a second. Events
    that arrive before the worker has finished are erased too.
    """
    return _accepted(request, user_id, await serving.request_erasure(user_id))


def _accepted(
    request: Request, user_id: str, workers: int | None, heard: Heard | None = None
) -> Response:
    answer = Accepted(
        request_id=request.state.request_id,
        user_id=user_id,
        workers=workers,
        wish=_told(heard) if heard is not None else None,
    )
    return Response(answer.model_dump_json(), 202, media_type="application/json")


def _told(heard: Heard) -> WishHeard:
    wish = heard.wish
    return WishHeard(
        answer=heard.sentence,
        wanted=wish.wanted,
        unwanted=wish.unwanted,
        unknown=list(wish.wish.unknown),
        until=heard.until_s,
    )
