"""Typed, frozen answers of the client; fields of later API versions are ignored.

The API documents the field names at `/docs`. Knows nothing of HTTP or of the
service's own modules: a caller does not need them.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Generation(_Answer):
    """The record from the night that an answer uses."""

    id: int
    created_at: int  # unix seconds
    age_s: int  # seconds since then


class Parts(_Answer):
    """Parts that add up to the score of an item."""

    model: float  # log-probability by the online model
    memory: float  # bonus of the memory
    night: float  # bonus of the night
    wish: float = 0.0  # bonus of the user's wish


class PairEvidence(_Answer):
    """Evidence that one item of the history gives for a recommended one."""

    item_id: str
    share: float  # of the memory's evidence for the recommended item, 0 to 1
    times: float  # that users had both near each other, nearer ones more
    cosine: float  # of the two texts


class AgreedThought(_Answer):
    """A thought that found the prefix of an item and names its topic."""

    path: int
    topic: str


class ItemReason(_Answer):
    """Why an item is in the list."""

    ground: str  # largest part of the score; a plain string, because later versions may add some
    text: str  # with titles: escape it before rendering
    parts: Parts | None = None
    evidence: tuple[PairEvidence, ...] = ()  # in the order of `because`
    thought: AgreedThought | None = None


class Item(_Answer):
    """A recommended item."""

    item_id: str
    rank: int  # from 1
    score: float | None = None  # log-probability and bonus; comparable within one `source` only
    sid: tuple[int, ...] = ()
    source: str  # rung that gave this item
    title: str | None = None
    path: int | None = None  # number of the thought behind the item
    because: tuple[str, ...] | None = None  # items of the history that speak most for it
    reason: ItemReason | None = None  # with explain=True


class PathText(_Answer):
    """A thought."""

    path: int  # its number
    text: str  # model output: escape it before rendering


class ExperimentArm(_Answer):
    """An experiment and the user's arm in it."""

    name: str
    arm: str


class WishAtWork(_Answer):
    """A wish of the user that an answer obeys."""

    wanted: tuple[str, ...]  # what is raised
    unwanted: tuple[str, ...]  # what is ruled out
    until: int  # unix seconds of its end


class Recommendation(_Answer):
    """The answer to one recommendation request."""

    request_id: str
    recommendation_id: str | None = None
    user_id: str | None = None
    source: str  # rung that answered; a plain string, because later versions may add rungs
    degraded: bool = False  # a fault kept the answer from the best rung
    generation: Generation | None = None  # None: no record was used
    release: str
    model: str | None = None
    experiment: tuple[ExperimentArm, ...] = ()
    items: tuple[Item, ...]  # best first
    paths: tuple[PathText, ...] = ()  # with explain=True
    wish: WishAtWork | None = None  # None: no wish of the user holds
    timings_ms: Mapping[str, float] = {}
    next_cursor: str | None = None  # `cursor` for the items that follow; None: no more items

    @property
    def item_ids(self) -> list[str]:
        """Return the ids of the items, best first."""
        return [item.item_id for item in self.items]


class BatchEntry(_Answer):
    """The answer to one user of a batch."""

    user_id: str
    status: int  # HTTP status of a single request
    recommendation: Recommendation | None = None
    detail: str | None = None  # error, if there is no recommendation


class RecommendationBatch(_Answer):
    """The answer to a batch of users."""

    request_id: str
    results: tuple[BatchEntry, ...]  # in the order of the user ids


class TakenEvent(_Answer):
    """An accepted event."""

    event_id: str
    item_id: str
    timestamp: int  # unix seconds
    type: str | None = None
    value: float | None = None
    known: bool  # the item is in the catalog
    stored: bool  # the history in the store has the event
    new: bool | None = None  # False: it adds nothing; None: not known yet
    reason: str | None = None  # why it is not stored: "too_old" or "waiting"


class EventResult(_Answer):
    """The result of one event of a batch."""

    status: int  # 200: see `stored`; 202: waiting in the service; otherwise rejected
    user_id: str
    event_id: str | None = None
    known: bool | None = None
    stored: bool | None = None
    new: bool | None = None
    reason: str | None = None  # why it is not stored: "too_old" or "waiting"
    detail: str | None = None  # reason of a rejection


class TakenBatch(_Answer):
    """The answer to a batch of events."""

    request_id: str
    results: tuple[EventResult, ...]  # in the order of the events


class ItemResult(_Answer):
    """The result of one offered item."""

    status: int  # 202: in the feed; otherwise rejected
    item_id: str
    known: bool | None = None  # the item is in the catalog
    detail: str | None = None  # reason of a rejection


class TakenItems(_Answer):
    """The answer to offered items."""

    request_id: str
    results: tuple[ItemResult, ...]  # in the order of the items


class WishHeard(_Answer):
    """Understanding of an instruction."""

    answer: str  # a sentence for the user: escape it before rendering
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    unknown: tuple[str, ...]  # words that the catalog does not know
    until: int | None = None  # unix seconds of the end of the wish; None: none holds


class Accepted(_Answer):
    """A request queued for a worker."""

    request_id: str
    user_id: str
    workers: int | None = None  # alive; 0: the request waits until one is started
    wish: WishHeard | None = None  # None without an instruction
