"""What the service answers, as its callers hold it: frozen, typed, with fields of later versions
ignored.

The names are the API's, where each is documented (`/docs`). Knows nothing of HTTP, and nothing of
the service's own modules: whoever calls needs none of them.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Generation(_Answer):
    """The night's record that an answer was built from."""

    id: int
    created_at: int  # unix seconds
    age_s: int


class Item(_Answer):
    """score: comparable within one `source` only. path: of the thought that the item came from."""

    item_id: str
    rank: int
    score: float | None = None
    sid: tuple[int, ...] = ()
    source: str
    title: str | None = None
    path: int | None = None


class PathText(_Answer):
    """A thought. A model wrote the text: escape it before you render it."""

    path: int
    text: str


class ExperimentArm(_Answer):
    """What this user's answers are part of."""

    name: str
    arm: str


class Recommendation(_Answer):
    """source: the rung that answered; text, so that a later version may have another.

    next_cursor: for the items that follow, with all else asked for as before; None at the end.
    """

    request_id: str
    recommendation_id: str | None = None
    user_id: str | None = None
    source: str
    degraded: bool = False
    generation: Generation | None = None
    release: str
    model: str | None = None
    experiment: tuple[ExperimentArm, ...] = ()
    items: tuple[Item, ...]
    paths: tuple[PathText, ...] = ()
    timings_ms: Mapping[str, float] = {}
    next_cursor: str | None = None

    @property
    def item_ids(self) -> list[str]:
        """Best first."""
        return [item.item_id for item in self.items]


class BatchEntry(_Answer):
    """One user of a batch. status: as of a call of its own; detail: why there is no answer."""

    user_id: str
    status: int
    recommendation: Recommendation | None = None
    detail: str | None = None


class RecommendationBatch(_Answer):
    """In the order of the users."""

    request_id: str
    results: tuple[BatchEntry, ...]


class TakenEvent(_Answer):
    """stored: False while it waits in the service for the store. new: False for an id seen before,
    None while that is not known. known: whether the catalog holds the item."""

    event_id: str
    item_id: str
    timestamp: int
    known: bool
    stored: bool
    new: bool | None = None


class EventResult(_Answer):
    """One event of a batch. status: 200 stored, 202 waiting in the service, else not taken."""

    status: int
    user_id: str
    event_id: str | None = None
    known: bool | None = None
    new: bool | None = None
    detail: str | None = None


class TakenBatch(_Answer):
    """In the order of the events."""

    request_id: str
    results: tuple[EventResult, ...]


class Accepted(_Answer):
    """A worker will do it."""

    request_id: str
    user_id: str
