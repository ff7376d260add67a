"""The JSON of events: one, or those of many users at once. Knows nothing of how they are kept."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.asked import ItemIdText, UnixSeconds


class NewEvent(BaseModel):
    """Something the user did with an item."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"item_id": "B004OHQR1Q", "timestamp": 1767225600, "event_id": "click-8f14e45f"}
            ]
        },
    )

    item_id: ItemIdText
    timestamp: Annotated[UnixSeconds | None, Field(description="Default: now.")] = None
    event_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="Makes retries safe: an id that was seen before adds nothing. "
            "Default: a fresh one, so that every call counts.",
        ),
    ] = None


class TakenEvent(BaseModel):
    """200 when the event is stored; 202 when it waits in this process for the store to return."""

    request_id: str
    user_id: str
    event_id: str
    item_id: str
    timestamp: int
    known: Annotated[
        bool,
        Field(
            description="Whether this release's catalog holds the item. An unknown one is kept in "
            "the history all the same: catalogs lag."
        ),
    ]
    stored: bool
    new: Annotated[
        bool | None,
        Field(description="False for an event id seen before; null while it waits for the store."),
    ]
