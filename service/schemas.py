"""The JSON of the API.

Later versions only add fields. A recommendation is made of plain dictionaries, which are written
some 60 microseconds faster than models are built and dumped; FastAPI documents both alike. Knows
nothing of how an answer came about.
"""

from typing import Annotated, NotRequired

from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.reasons import Mode, Source

MAX_ITEMS = 100
MAX_EXCLUDED = 200
TimeoutMs = Annotated[int, Field(ge=1, le=60_000)]
_LAST_SECOND = 253_402_300_799  # of the year 9999; milliseconds taken for seconds lie beyond


class Generation(TypedDict):
    """The night's record that the answer was built from."""

    id: int
    created_at: Annotated[int, Field(description="When the user was thought about, unix seconds.")]
    age_s: Annotated[int, Field(description="Seconds since then; 0 if dated in the future.")]


class Item(TypedDict):
    item_id: str
    rank: Annotated[int, Field(ge=1)]
    score: Annotated[
        float | None,
        Field(
            description="Joint log-probability of the item's SID given the history (Eq. 11), from "
            "the online model; null for `popular`. Comparable within one `source` only."
        ),
    ]
    sid: Annotated[list[int], Field(description="Semantic id, one code a level.")]
    source: Annotated[Source, Field(description="Rung that gave this item.")]
    title: str | None
    path: Annotated[
        int | None,
        Field(
            description="Number of the reasoning path whose prefix covers the item; null for the "
            "rungs without a record."
        ),
    ]


class ExperimentArm(TypedDict):
    name: str
    arm: str


class PathText(TypedDict):
    path: int
    text: Annotated[str, Field(description="Written by a model: escape it before you render it.")]


class Timings(TypedDict):
    """Milliseconds of this answer.

    Reading the store, waiting for the model, encoding what is new of the history, finishing, all.
    """

    store: float
    queue: float
    encode: float
    finish: float
    total: float


class Recommendation(TypedDict):
    """An answer, always 200: an unknown user gets what everybody gets."""

    request_id: str
    user_id: str
    source: Annotated[
        Source,
        Field(
            description="Rung that answered. `personal`: prefixes that the night thought of; "
            "`stale`: such, but over age, or this process's last good copy, or behind an "
            "unreadable record; `online`: the online model's own prefixes; `global`: the "
            "release's; `popular`: a fixed list. Later items may come from lower rungs, see each "
            "item's `source`; in `union` mode items by the model's own prefixes are `online`, and "
            "so is an answer of nothing else."
        ),
    ]
    degraded: Annotated[
        bool,
        Field(
            description="True when this user could have had better: a fault, an over-age record or "
            "lack of time kept the answer from the best rung that the user's own data allow. "
            "`online` for a user without a record and `global` for one without a history are not "
            "degraded."
        ),
    ]
    generation: Annotated[
        Generation | None, Field(description="Null for the rungs without a record.")
    ]
    release: Annotated[str, Field(description="Release that answered, `name@version`.")]
    experiment: Annotated[
        list[ExperimentArm],
        Field(
            description="Experiments that had a say in the answer, and the user's arm in each: "
            "always the same for a user. Empty for most."
        ),
    ]
    items: Annotated[
        list[Item],
        Field(
            description="Best first, `n` of them wherever that many items pass the filters; empty "
            "when none does."
        ),
    ]
    paths: NotRequired[
        Annotated[
            list[PathText],
            Field(
                description="Reasoning paths of the record, with `explain=true` only; empty for "
                "the rungs without a record and when the texts cannot be read."
            ),
        ]
    ]
    timings_ms: Timings


class RecommendQuery(BaseModel):
    """What may stand behind the `?` of a recommendation."""

    model_config = ConfigDict(frozen=True)

    n: Annotated[int, Field(ge=1, le=MAX_ITEMS, description="How many items.")] = 10
    explain: Annotated[bool, Field(description="Add the reasoning paths.")] = False
    exclude_seen: Annotated[bool, Field(description="Leave out items of the history.")] = True
    exclude: Annotated[
        tuple[str, ...],
        Field(
            description=f"Item ids to leave out, {MAX_EXCLUDED} at most: repeated, or with commas "
            "between them. Unknown ones are ignored.",
            examples=[["B004OHQR1Q", "B0009V1YR8"]],
        ),
    ] = ()
    category: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="Only items of this category: the exact text of any level of their "
            "category path. `items` is empty when the catalog has none.",
            examples=["Hair Care"],
        ),
    ] = None
    mode: Annotated[
        Mode | None,
        Field(
            description="`strict`: the record's prefixes alone; `union`: together with the online "
            "model's own. Default: as the service is configured.",
            examples=["union"],
        ),
    ] = None

    @field_validator("exclude")
    @classmethod
    def _split(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Both forms at once; an id that holds a comma itself is found in its whole form."""
        parts = [part for value in values for part in value.split(",") if part]
        if len(parts) > MAX_EXCLUDED:
            raise ValueError(f"{len(parts)} items, expected at most {MAX_EXCLUDED}")
        return tuple(dict.fromkeys((*values, *parts)))


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

    item_id: Annotated[str, Field(min_length=1, max_length=256)]
    timestamp: Annotated[
        int | None, Field(ge=0, le=_LAST_SECOND, description="Unix seconds; default: now.")
    ] = None
    event_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="Makes retries safe: an id that was seen before adds nothing. "
            "Default: a fresh one, so that every call counts.",
        ),
    ] = None


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class TakenEvent(_Answer):
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


class Alive(_Answer):
    status: str = "alive"


class Ready(_Answer):
    status: str = "ready"
    release: str
    manifest_epoch: Annotated[
        int | None, Field(description="Null before the first; not a condition of readiness.")
    ]
