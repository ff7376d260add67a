"""Schemas of responses: recommendations, accepted user requests, health.

Later versions only add fields. A recommendation consists of plain dictionaries: writing them is
about 60 microseconds faster than building and dumping models, and FastAPI documents both equally.
Knows nothing of how an answer is computed; `recommendation` fills in the fields.
"""

from typing import Annotated, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.sources import Source


class Generation(TypedDict):
    """The record from the night that the answer uses."""

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
    """Milliseconds per stage of this answer.

    `store`: reading the user; `queue`: waiting for the model; `encode`: encoding new events of the
    history; `finish`: scoring the items; `total`: the whole answer.
    """

    store: float
    queue: float
    encode: float
    finish: float
    total: float


class Recommendation(TypedDict):
    """An answer with status 200. An unknown user gets the items that suit most users."""

    request_id: str
    recommendation_id: Annotated[str, Field(description="Of this answer, another one each time.")]
    user_id: Annotated[
        str | None, Field(description="Null for a history of the caller's own, without a user.")
    ]
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
    model: Annotated[
        str | None,
        Field(
            description="Online model that scored, by a digest of its weights and its precision; "
            "null for `popular`."
        ),
    ]
    experiment: Annotated[
        list[ExperimentArm],
        Field(
            description="Experiments that had a say in the answer, and the user's arm in each: "
            "always the same for a user. Empty for most, and for who was answered in a flood."
        ),
    ]
    items: Annotated[
        list[Item],
        Field(
            description="Best first, `n` of them wherever that many items pass the filters; empty "
            "when none does."
        ),
    ]
    next_cursor: Annotated[
        str | None,
        Field(
            description="For `cursor=`, with all else as it was: the items that follow. Null when "
            "fewer than `n` were left, at the end of a list's 1,000 items, and where a flood left "
            "no time for one."
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


class BatchEntry(TypedDict):
    """The answer to one user of a batch, as a single request would return it."""

    user_id: str
    status: Annotated[int, Field(description="As of a request of its own: 200, 422 or 500.")]
    recommendation: NotRequired[Recommendation]
    detail: NotRequired[Annotated[str, Field(description="Why there is none.")]]


class RecommendationBatch(TypedDict):
    request_id: str
    results: Annotated[list[BatchEntry], Field(description="In the order of the users.")]


class Accepted(BaseModel):
    """A request queued for a worker; needs a running `python -m offline worker`."""

    request_id: str
    user_id: str


class Alive(BaseModel):
    status: str = "alive"


class Ready(BaseModel):
    status: str = "ready"
    release: str
    manifest_epoch: Annotated[
        int | None, Field(description="Null before the first; not a condition of readiness.")
    ]
