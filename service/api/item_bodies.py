"""Schemas of offered items. Knows nothing of their storage."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.api.params import ID_SCHEMA

MAX_OFFERED = 1000


class OfferedItem(BaseModel):
    """A new item, new texts of an item, or a withdrawal.

    Limits are checked per item: an invalid item fails alone.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    item_id: Annotated[str, Field(json_schema_extra={"format": ID_SCHEMA["format"]})]
    title: Annotated[str | None, Field(description="At most 1,000 characters.")] = None
    brand: Annotated[str | None, Field(description="At most 1,000 characters.")] = None
    categories: Annotated[
        tuple[str, ...],
        Field(strict=False, description="From coarse to fine, at most 16 of 1 to 256 characters."),
    ] = ()
    description: Annotated[str | None, Field(description="At most 10,000 characters.")] = None
    withdrawn: Annotated[
        bool, Field(description="True: the item is no longer to be recommended.")
    ] = False


class ItemOffer(BaseModel):
    """Items, in the order in which they changed: of two with the same id the later one holds."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "new-soap-1",
                            "title": "Olive Oil Soap",
                            "brand": "Dalan",
                            "categories": ["Beauty", "Bath & Body", "Soaps"],
                        },
                        {"item_id": "B004OHQR1Q", "withdrawn": True},
                    ]
                }
            ]
        },
    )

    items: Annotated[
        tuple[OfferedItem, ...], Field(strict=False, min_length=1, max_length=MAX_OFFERED)
    ]


class ItemResult(BaseModel):
    """The result of one item."""

    status: Annotated[int, Field(description="202: in the feed; 422: rejected.")]
    item_id: str
    known: Annotated[
        bool | None, Field(description="True if the item is in this release's catalog.")
    ] = None
    detail: Annotated[str | None, Field(description="Reason of a rejection.")] = None


class TakenItems(BaseModel):
    request_id: str
    results: Annotated[list[ItemResult], Field(description="In the order of the items.")]
