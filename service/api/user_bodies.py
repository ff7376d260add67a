"""The JSON of what is asked for a user: a thought, or to be forgotten."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.store.queues import MAX_INSTRUCTION_CHARS


class ThinkRequest(BaseModel):
    """What the thought may be told."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"instruction": "A present for my sister, under 20 euros"}]
        },
    )

    instruction: Annotated[
        str | None,
        Field(
            max_length=MAX_INSTRUCTION_CHARS,
            description="For this thought only; the reasoner sees it beside the history.",
        ),
    ] = None


class Accepted(BaseModel):
    """A worker will do it; `python -m offline worker` has to be running."""

    request_id: str
    user_id: str
