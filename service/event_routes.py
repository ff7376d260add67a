"""Events: what users do, appended to their histories."""

import secrets
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from models.events import Event, check_event
from service.binding import CurrentServing, UserId
from service.event_schemas import NewEvent, TakenEvent
from service.problems import BAD_JSON, NOT_ACCEPTED, NOT_FOUND, STORE_AWAY, TOO_LARGE, documented

router = APIRouter()


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
                400: BAD_JSON,
                404: NOT_FOUND,
                413: TOO_LARGE,
                422: NOT_ACCEPTED,
                503: STORE_AWAY,
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
