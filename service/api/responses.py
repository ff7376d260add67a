"""Schemas of responses: recommendations, accepted user requests, health.

Later versions only add fields. A recommendation consists of plain dictionaries: writing them is
about 60 microseconds faster than building and dumping models, and FastAPI documents both equally.
Knows nothing of how an answer is computed; `recommendation` fills in the fields.
"""

from typing import Annotated, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service.sources import Ground, Source


class Generation(TypedDict):
    """The record from the night that the answer uses."""

    id: int
    created_at: Annotated[int, Field(description="Unix seconds of the thought about the user.")]
    age_s: Annotated[int, Field(description="Seconds since `created_at`; 0 if in the future.")]


class Parts(TypedDict):
    """Parts that add up to the score."""

    model: Annotated[float, Field(description="Log-probability by the online model (Eq. 11).")]
    memory: Annotated[float, Field(description="Bonus of the memory, at least 0.")]
    night: Annotated[float, Field(description="Bonus of the night, in the mode `fused`.")]
    wish: Annotated[float, Field(description="Bonus of the user's wish.")]


class PairEvidence(TypedDict):
    item_id: Annotated[str, Field(description="Item of the history, as in `because`.")]
    share: Annotated[
        float, Field(description="Its share of the memory's evidence for the item, 0 to 1.")
    ]
    times: Annotated[
        float,
        Field(
            description="How often users had both within a few steps, as the release counted: "
            "neighbours count 1, two steps 1/2, and the other way round less."
        ),
    ]
    cosine: Annotated[
        float, Field(description="Of the two texts; 0 unless they are among the most similar.")
    ]


class AgreedThought(TypedDict):
    path: int
    topic: Annotated[str, Field(description="Topic of the item, which the thought names.")]


class ItemReason(TypedDict):
    ground: Annotated[
        Ground,
        Field(
            description="Largest part of the score. `memory`: counts of pairs; `words`: similar "
            "texts; `night`: the night's bonus; `wish`: the bonus of the user's wish; `model`: the "
            "online model; `popular`: no score."
        ),
    ]
    text: Annotated[str, Field(description="The reason as a sentence, with titles: escape it.")]
    parts: Parts | None
    evidence: Annotated[
        list[PairEvidence], Field(description="For each item of `because`, in the same order.")
    ]
    thought: Annotated[
        AgreedThought | None,
        Field(
            description="The thought whose prefix covers the item, if it also names the item's "
            "topic; otherwise null."
        ),
    ]


class Item(TypedDict):
    item_id: str
    rank: Annotated[int, Field(ge=1)]
    score: Annotated[
        float | None,
        Field(
            description="Joint log-probability of the item's SID given the history (Eq. 11), by "
            "the online model, and a bonus for the evidence of its memory, so it may be above 0; "
            "null for `popular`. Compare it only within one `source`."
        ),
    ]
    sid: Annotated[list[int], Field(description="Semantic id: one code per level.")]
    source: Annotated[Source, Field(description="Rung that gave this item.")]
    title: str | None
    path: Annotated[
        int | None,
        Field(
            description="Number of the reasoning path whose prefix covers the item; null for rungs "
            "without a record, and for an item that no path covers."
        ),
    ]
    because: Annotated[
        list[str] | None,
        Field(
            description="Items of the history that speak most for the item, by how often users "
            "interacted with both in short succession: at most three, most first; null without "
            "such evidence."
        ),
    ]
    reason: NotRequired[
        Annotated[
            ItemReason | None,
            Field(
                description="Why the item is in the list, only with `explain=true`; null if the "
                "time was too short."
            ),
        ]
    ]


class ExperimentArm(TypedDict):
    name: str
    arm: str


class PathText(TypedDict):
    path: int
    text: Annotated[str, Field(description="Model output: escape it before rendering.")]


class WishAtWork(TypedDict):
    """A wish of the user that the answer obeys."""

    wanted: Annotated[list[str], Field(description="What is raised, as the catalog names it.")]
    unwanted: Annotated[list[str], Field(description="What is ruled out.")]
    until: Annotated[int, Field(description="Unix seconds of the end of the wish.")]


class Timings(TypedDict):
    """Milliseconds per stage of this answer."""

    store: Annotated[float, Field(description="Reading the user.")]
    queue: Annotated[float, Field(description="Waiting for the model.")]
    encode: Annotated[float, Field(description="Encoding new events of the history.")]
    finish: Annotated[float, Field(description="Scoring the items.")]
    total: Annotated[float, Field(description="The whole answer.")]


class Recommendation(TypedDict):
    """An answer with status 200. An unknown user gets the items that suit most users."""

    request_id: str
    recommendation_id: Annotated[str, Field(description="Unique id of this answer.")]
    user_id: Annotated[
        str | None, Field(description="Null for a request with the caller's own history.")
    ]
    source: Annotated[
        Source,
        Field(
            description="Rung that answered. `personal`: prefixes from the user's newest record; "
            "`stale`: prefixes from a record that is too old, from this process's last good copy, "
            "or from the record behind an unreadable one; `online`: the online model's own "
            "prefixes; `global`: prefixes of the release; `popular`: a fixed list. Later items may "
            "come from lower rungs, see each item's `source`. In `union` mode, items from the "
            "model's own prefixes are `online`, as is an answer with such items only."
        ),
    ]
    degraded: Annotated[
        bool,
        Field(
            description="True if a fault, a record that is too old, or lack of time kept the "
            "answer from the best rung that the user's data allow. `online` for a user without a "
            "record and `global` for a user without a history are not degraded."
        ),
    ]
    generation: Annotated[Generation | None, Field(description="Null for rungs without a record.")]
    release: Annotated[str, Field(description="Release that answered, `name@version`.")]
    model: Annotated[
        str | None,
        Field(
            description="Online model that computed the scores: digest of its weights, and "
            "precision. Null for `popular`."
        ),
    ]
    experiment: Annotated[
        list[ExperimentArm],
        Field(
            description="Experiments that affect the answer, with the user's arm in each. A user's "
            "arm does not change. Empty for most users, and for answers given under overload."
        ),
    ]
    items: Annotated[
        list[Item],
        Field(
            description="Best first: `n` items, or fewer if fewer items pass the filters; empty if "
            "none does."
        ),
    ]
    next_cursor: Annotated[
        str | None,
        Field(
            description="Value of `cursor=` for the items that follow, with all other parameters "
            "unchanged. Null if fewer than `n` items were left, after 1,000 items of one list, and "
            "in answers given under heavy overload."
        ),
    ]
    paths: NotRequired[
        Annotated[
            list[PathText],
            Field(
                description="Reasoning paths of the record, only with `explain=true`; empty for "
                "rungs without a record, and if the texts cannot be read."
            ),
        ]
    ]
    wish: NotRequired[
        Annotated[WishAtWork, Field(description="Only while a wish of the user is at work.")]
    ]
    timings_ms: Timings


class BatchEntry(TypedDict):
    """The answer to one user of a batch, as a single request would return it."""

    user_id: str
    status: Annotated[int, Field(description="Status of a single request: 200, 422 or 500.")]
    recommendation: NotRequired[Recommendation]
    detail: NotRequired[Annotated[str, Field(description="Reason of status 422 or 500.")]]


class RecommendationBatch(TypedDict):
    request_id: str
    results: Annotated[list[BatchEntry], Field(description="In the order of `user_ids`.")]


class WishHeard(BaseModel):
    """Understanding of an instruction."""

    answer: Annotated[
        str,
        Field(
            description="A sentence for the user: what was understood, and what is done. It quotes "
            "the user and the catalog: escape it before rendering."
        ),
    ]
    wanted: Annotated[list[str], Field(description="What is raised, as the catalog names it.")]
    unwanted: Annotated[list[str], Field(description="What is ruled out.")]
    unknown: Annotated[list[str], Field(description="Words that the catalog does not know.")]
    until: Annotated[
        int | None, Field(description="Unix seconds of the end of the wish; null: none holds.")
    ]


class Accepted(BaseModel):
    """A request queued for a worker; needs a running `python -m offline worker`."""

    request_id: str
    user_id: str
    workers: Annotated[
        int | None,
        Field(
            description="Workers that are alive. 0: the request waits until one is started. Null: "
            "the store did not tell."
        ),
    ]
    wish: Annotated[
        WishHeard | None, Field(description="Null without an instruction, and for an erasure.")
    ] = None


class Alive(BaseModel):
    status: str = "alive"


class Ready(BaseModel):
    status: str = "ready"
    release: str
    manifest_epoch: Annotated[
        int | None, Field(description="Null before the first manifest; not needed for readiness.")
    ]
    warning: Annotated[
        str | None,
        Field(description="Says if most of the store's users have no item of this release."),
    ]
