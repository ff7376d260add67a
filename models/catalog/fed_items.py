"""Items as a feed brings them: a new item with its texts, new texts, or a withdrawal.

Owns their checks and their JSON form, which the stream of items, files of a feed and the API share.
Knows nothing of SIDs or of a store.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from models.errors import InvalidRecord
from models.ids import id_problem

MAX_ITEM_BYTES = 32 * 1024  # of the JSON form


def _check_id(value: str) -> str:
    if (problem := id_problem(value)) is not None:
        raise ValueError(f"{value[:40]!r} {problem}")
    return value


_Id = Annotated[str, AfterValidator(_check_id)]
_Short = Annotated[str, Field(max_length=1000)]
_Category = Annotated[str, Field(min_length=1, max_length=256)]


class FedItem(BaseModel):
    """An item of a feed. Of two with the same id the later one holds."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    item_id: _Id
    title: _Short | None = None
    brand: _Short | None = None
    categories: Annotated[  # from coarse to fine; JSON may have "coarse > fine" too
        tuple[_Category, ...], Field(strict=False, max_length=16)
    ] = ()
    description: Annotated[str, Field(max_length=10_000)] | None = None
    withdrawn: bool = False  # no longer to be recommended

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "FedItem":
        """Decode JSON. Total over any bytes: raises InvalidRecord."""
        if len(data) > MAX_ITEM_BYTES:
            raise InvalidRecord(f"item: {len(data)} bytes, expected at most {MAX_ITEM_BYTES}")
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            raise InvalidRecord(f"item: {_first_problem(exc)}") from exc

    @classmethod
    def check(cls, fields: dict[str, Any]) -> "FedItem":
        """Check the fields of an item from a file or a request. Raises InvalidRecord."""
        try:
            item = cls.model_validate(fields)
        except ValidationError as exc:
            raise InvalidRecord(f"item: {_first_problem(exc)}") from exc
        if (size := len(item.encode())) > MAX_ITEM_BYTES:
            raise InvalidRecord(
                f"item {item.item_id!r}: {size} bytes, expected at most {MAX_ITEM_BYTES}"
            )
        return item

    @field_validator("title", "brand", "description", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("categories", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(">") if part.strip())
        return () if value is None else value


def _first_problem(failure: ValidationError) -> str:
    first = failure.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'whole text'}: {first['msg']}"
