"""Schemas of events: one event, or a batch of many users. Knows nothing of their storage."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.api.params import (
    ANY_NUMBER,
    WHOLE_NUMBER,
    EventIdText,
    EventType,
    EventValue,
    ItemIdText,
    UnixSeconds,
)
from service.api.requests import MAX_EVENTS
from service.sources import NotStored

WhyNotStored = Annotated[
    NotStored | None,
    Field(
        description="Why the event is not stored. `too_old`: the history is full, and the event is "
        "no newer than the oldest one there. `waiting`: the store is away."
    ),
]


class NewEvent(BaseModel):
    """An interaction of the user with an item."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "item_id": "B004OHQR1Q",
                    "timestamp": 1767225600,
                    "event_id": "click-8f14e45f",
                    "type": "click",
                }
            ]
        },
    )

    item_id: ItemIdText
    timestamp: Annotated[UnixSeconds | None, Field(description="Default: now.")] = None
    event_id: Annotated[
        EventIdText | None,
        Field(
            description="Makes retries safe: an event whose id the user has sent within the last "
            "24 hours adds nothing, in any process. Default: a new id, so that every call counts.",
        ),
    ] = None
    type: Annotated[
        EventType | None,
        Field(description="Kind of the interaction, such as `view`, `click` or `purchase`."),
    ] = None
    value: Annotated[
        EventValue | None, Field(description="Amount that belongs to it, such as a price.")
    ] = None


class TakenEvent(BaseModel):
    """An accepted event: 202 if it waits in this process for the store, otherwise 200."""

    request_id: str
    user_id: str
    event_id: str
    item_id: str
    timestamp: int
    type: str | None = None
    value: float | None = None
    known: Annotated[
        bool,
        Field(
            description="True if the item is in this release's catalog. An unknown item is kept in "
            "the history too, because catalogs lag."
        ),
    ]
    stored: Annotated[bool, Field(description="True if the history in the store has the event.")]
    new: Annotated[
        bool | None,
        Field(description="False for an event that adds nothing; null while it waits."),
    ]
    reason: WhyNotStored = None


class BatchedEvent(BaseModel):
    """An event with its user. Limits are checked per event: an invalid event fails alone."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    user_id: str
    item_id: str
    timestamp: Annotated[
        Annotated[int, WHOLE_NUMBER] | None, Field(description="Unix seconds; default: now.")
    ] = None
    event_id: Annotated[str | None, Field(description="As in a single event.")] = None
    type: Annotated[str | None, Field(description="As in a single event.")] = None
    value: Annotated[
        Annotated[float, ANY_NUMBER] | None, Field(description="As in a single event.")
    ] = None


class EventBatch(BaseModel):
    """Events of many users, in the order in which they happened."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"user_id": "ann", "item_id": "B004OHQR1Q", "event_id": "click-1"},
                        {"user_id": "bob", "item_id": "B0009V1YR8", "event_id": "click-2"},
                    ]
                }
            ]
        },
    )

    events: Annotated[
        tuple[BatchedEvent, ...], Field(strict=False, min_length=1, max_length=MAX_EVENTS)
    ]


class EventResult(BaseModel):
    """The result of one event, as a single request would return it."""

    status: Annotated[
        int, Field(description="200: see `stored`; 202: waiting; otherwise rejected.")
    ]
    user_id: str
    event_id: str | None = None
    known: bool | None = None
    stored: bool | None = None
    new: bool | None = None
    reason: WhyNotStored = None
    detail: Annotated[str | None, Field(description="Reason of a rejection.")] = None


class TakenBatch(BaseModel):
    request_id: str
    results: Annotated[list[EventResult], Field(description="In the order of the events.")]
