"""Routes that append events to the histories of users."""

import secrets
import time
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from models.errors import InvalidInput, StoreUnavailable
from models.store.events import Event, check_event, check_user_id
from service.api.event_bodies import (
    BatchedEvent,
    EventBatch,
    EventResult,
    NewEvent,
    TakenBatch,
    TakenEvent,
)
from service.api.params import CurrentServing, UserId
from service.api.query_names import StrictRoute
from service.problems import (
    BAD_JSON,
    NOT_ACCEPTED,
    NOT_FOUND,
    STORE_AWAY,
    TOO_LARGE,
    problem_responses,
)
from service.serving import Serving

router = APIRouter(route_class=StrictRoute)
batch_router = APIRouter(prefix="/v1", route_class=StrictRoute)
_PROBLEMS = problem_responses(
    {400: BAD_JSON, 404: NOT_FOUND, 413: TOO_LARGE, 422: NOT_ACCEPTED, 503: STORE_AWAY}
)
_BATCH_PROBLEMS = problem_responses({400: BAD_JSON, 413: TOO_LARGE, 422: NOT_ACCEPTED})


@router.post(
    "/events/{user_id:path}",
    summary="Append to a user's history",
    response_model=TakenEvent,
    responses={
        202: {
            "description": "Accepted by this process; not stored yet, as the store is unavailable",
            "model": TakenEvent,
        },
        **_PROBLEMS,
    },
)
async def append_event(
    request: Request, serving: CurrentServing, user_id: UserId, body: NewEvent
) -> Response:
    """Append one event; the next recommendation uses it.

    A retry with the same `event_id` adds nothing.
    """
    event = _to_event(body)
    came_at = request.scope["state"].get("came_at")
    appended = (await serving.append({user_id: [event]}, came_at=came_at))[user_id][0]
    taken = TakenEvent(
        request_id=request.state.request_id,
        user_id=user_id,
        known=serving.knows_item(event.item_id),
        **(event._asdict() | {"type": event.type or None}),
        **appended._asdict(),
    )
    status = 202 if appended.new is None else 200
    return Response(taken.model_dump_json(), status, media_type="application/json")


@batch_router.post(
    "/events:batch",
    summary="Append to the histories of many users",
    response_model=TakenBatch,
    responses=_BATCH_PROBLEMS,
)
async def append_events(request: Request, serving: CurrentServing, body: EventBatch) -> Response:
    """Append events and return one status per event.

    A retry of the whole batch with the same `event_id`s adds nothing.
    """
    results: dict[int, EventResult] = {}
    events: dict[str, list[Event]] = {}
    indices: dict[str, list[int]] = {}
    for at, each in enumerate(body.events):
        try:
            event = _validate_event(each)
        except InvalidInput as exc:
            results[at] = EventResult(status=422, user_id=each.user_id, detail=str(exc))
        else:
            events.setdefault(each.user_id, []).append(event)
            indices.setdefault(each.user_id, []).append(at)
    taken = await _append_all(serving, events)
    for user_id, of_user in indices.items():
        results.update(zip(of_user, taken[user_id], strict=True))
    answer = TakenBatch(
        request_id=request.state.request_id, results=[results[at] for at in sorted(results)]
    )
    text = answer.model_dump_json(exclude_none=True)
    return Response(text, media_type="application/json")


async def _append_all(
    serving: Serving, events: Mapping[str, Sequence[Event]]
) -> dict[str, list[EventResult]]:
    try:
        appended = await serving.append(events) if events else {}
    except StoreUnavailable as exc:
        refused = EventResult(status=503, user_id="", detail=str(exc))
        return {
            user_id: [refused.model_copy(update={"user_id": user_id})] * len(of_user)
            for user_id, of_user in events.items()
        }
    return {
        user_id: [
            EventResult(
                status=202 if each.new is None else 200,
                user_id=user_id,
                event_id=event.event_id,
                known=serving.knows_item(event.item_id),
                stored=each.stored,
                new=each.new,
                reason=each.reason,
            )
            for event, each in zip(events[user_id], of_user, strict=True)
        ]
        for user_id, of_user in appended.items()
    }


def _validate_event(each: BatchedEvent) -> Event:
    """Validate one event of a batch. Raises InvalidInput where a single event gets 422."""
    check_user_id(each.user_id)
    try:
        return _to_event(NewEvent.model_validate(each.model_dump(exclude={"user_id"})))
    except ValidationError as exc:
        first = exc.errors()[0]
        raise InvalidInput(f"{first['loc'][0]}: {first['msg']}") from exc


def _to_event(body: NewEvent) -> Event:
    """Return the event to store. Raises InvalidRecord."""
    event = Event(
        item_id=body.item_id,
        timestamp=int(time.time()) if body.timestamp is None else body.timestamp,
        event_id=body.event_id or secrets.token_hex(16),
        type=body.type or "",
        value=body.value,
    )
    check_event(event)
    return event
