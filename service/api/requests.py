"""Schemas of requests: the query of a recommendation, and the bodies of posted requests.

Checks each field by itself and documents its limits. Knows nothing of how a request is answered.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.store.events import HISTORY_LIMIT
from models.store.wish_turns import MAX_INSTRUCTION_CHARS
from service.api.params import WHOLE_NUMBER, EventIdText, ItemIdText, UnixSeconds, UserIdText
from service.recommend.pages import LIFETIME_S, MAX_CURSOR_CHARS, MAX_SHOWN
from service.sources import DEFAULT_ITEMS, Mode

MAX_ITEMS = 100
MAX_EXCLUDED = 200  # in a query
MAX_LISTED = 2000  # in a body
MAX_BATCH = 100  # users
MAX_EVENTS = 500
MAX_SESSION = 100


class _CommonFields(BaseModel):
    """Fields of every recommendation request."""

    model_config = ConfigDict(frozen=True)

    n: Annotated[int, Field(ge=1, le=MAX_ITEMS, description="Number of items."), WHOLE_NUMBER] = (
        DEFAULT_ITEMS
    )
    explain: Annotated[bool, Field(description="Add the reasoning paths.")] = False
    exclude_seen: Annotated[bool, Field(description="Leave out items of the history.")] = True
    category: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="Recommend only items of this category: the exact text of any level of "
            "their category path. `items` is empty if the catalog has none.",
            examples=["Hair Care"],
        ),
    ] = None
    mode: Annotated[
        Mode | None,
        Field(
            strict=False,
            description="Prefixes to choose from for a user with a record. `strict`: only the "
            "record's; `union`: also the online model's own. Default: the service's setting.",
            examples=["union"],
        ),
    ] = None


class _PagedFields(_CommonFields):
    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_CURSOR_CHARS,
            json_schema_extra={"format": "cursor"},
            description="`next_cursor` of an answer, to continue its list. No item is repeated; "
            "history and record are those of the first page. All parameters except `n` and "
            f"`explain` must be unchanged. Valid for {LIFETIME_S // 60} minutes and "
            f"{MAX_SHOWN:,} items.",
        ),
    ] = None


class RecommendQuery(_PagedFields):
    """Query parameters of a recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exclude: Annotated[
        tuple[str, ...],
        Field(
            json_schema_extra={"maxItems": MAX_EXCLUDED},
            description=f"Item ids to leave out, at most {MAX_EXCLUDED}. Repeat the parameter, or "
            "separate the ids by commas. Unknown ids are ignored.",
            examples=[["B004OHQR1Q", "B0009V1YR8"]],
        ),
    ] = ()

    @field_validator("exclude")
    @classmethod
    def _split(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Split at commas and keep the unsplit values too: an item id may contain a comma."""
        parts = [part for value in values for part in value.split(",") if part]
        if len(parts) > MAX_EXCLUDED:
            raise ValueError(f"{len(parts)} items, expected at most {MAX_EXCLUDED}")
        return tuple(dict.fromkeys((*values, *parts)))


class _ExcludedItems(BaseModel):
    exclude: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            max_length=MAX_LISTED,
            description="Item ids to leave out; unknown ids are ignored.",
        ),
    ] = ()


class PastItem(BaseModel):
    """One item of a history that the caller keeps."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    item_id: ItemIdText
    timestamp: UnixSeconds | None = None


class SessionEvent(BaseModel):
    """One event of the current session."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    item_id: ItemIdText
    timestamp: Annotated[UnixSeconds | None, Field(description="Default: now.")] = None
    event_id: Annotated[
        EventIdText | None,
        Field(description="Id of the same event if it is also posted; it then counts once."),
    ] = None


class ForHistory(_PagedFields, _ExcludedItems):
    """Request for a history that the caller keeps, without a stored user."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"history": ["B004OHQR1Q", {"item_id": "B0009V1YR8"}], "n": 5}]
        },
    )

    history: Annotated[
        tuple[ItemIdText | PastItem, ...],
        Field(
            strict=False,
            max_length=HISTORY_LIMIT,
            description="Oldest first. Timestamps reorder it; an item without a timestamp stays "
            "after the item before it. Items that are not in the catalog are ignored.",
        ),
    ]


class ForUser(_PagedFields, _ExcludedItems):
    """Request for a stored user, with the events of a session or a long list to exclude."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"user_id": "A2CG5Y82ZZNY6W", "session": [{"item_id": "B004OHQR1Q"}]}]
        },
    )

    user_id: UserIdText
    session: Annotated[
        tuple[SessionEvent, ...],
        Field(
            strict=False,
            max_length=MAX_SESSION,
            description="Added to the stored history for this request only; not stored.",
        ),
    ] = ()


class ForUsers(_CommonFields, _ExcludedItems):
    """Request for many stored users with the same parameters."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"user_ids": ["A2CG5Y82ZZNY6W", "nobody"], "n": 5}]},
    )

    user_ids: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            min_length=1,
            max_length=MAX_BATCH,
            description="Each id is checked by itself: an invalid one fails alone.",
        ),
    ]


class ThinkRequest(BaseModel):
    """Options of a thought."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"instruction": "I am tired of shampoo, show me perfume"}]},
    )

    instruction: Annotated[
        str | None,
        Field(
            max_length=MAX_INSTRUCTION_CHARS,
            description="A wish in the user's words. It changes the ranking from the next answer "
            "on, for a while, and the reasoner reads it together with the history. Further turns "
            "refine it.",
        ),
    ] = None
    item_id: Annotated[
        ItemIdText | None,
        Field(
            description='Item that "this" and "that" in the instruction mean; null: the first item '
            "of the last answer that this process gave to the user."
        ),
    ] = None
    forget_wish: Annotated[
        bool, Field(description="End the earlier wish first, whatever the instruction says.")
    ] = False
