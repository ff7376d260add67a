"""Schemas of the routes of the page. Knows nothing of how they are filled."""

from pydantic import BaseModel, ConfigDict

from models.store.gate_report import Verdict
from service.api.params import EventType, ItemIdText, UserIdText
from service.api.requests import ThinkRequest
from service.sources import NotStored, Source


class ItemCard(BaseModel):
    """An item as a line of the page."""

    item_id: str
    title: str | None = None
    category: str | None = None  # the path, from coarse to fine
    known: bool = True  # False: the catalog lacks the item


class SeenItem(ItemCard):
    """An event of a history."""

    timestamp: int  # unix seconds
    type: str  # empty for an interaction without a type
    value: float | None


class PrefixNode(BaseModel):
    """A prefix of C_u, or of the codes above it."""

    codes: list[int]
    mostly: str | None  # the most common category below it
    share: float  # of its items in that category
    example: str | None  # title of its most popular item
    num_items: int
    logprob: float | None  # of the night; None above the prefixes
    path: (
        int | None
    )  # number of the thought that found it; None above the prefixes, and for one of no thought
    below: list["PrefixNode"]


class Night(BaseModel):
    """A user's record and thoughts."""

    generation: int
    created_at: int  # unix seconds
    thoughts: list[str]  # by path number
    tree: list[PrefixNode]  # C_u by first code, likeliest first
    num_prefixes: int
    num_items: int  # items below all prefixes


class Agreement(BaseModel):
    """A thought that found the prefix of an item and names its topic."""

    path: int
    topic: str


class ListedItem(ItemCard):
    """A recommended item with the parts of its score."""

    rank: int
    source: Source
    sid: list[int]
    score: float | None  # all parts together; None for `popular`
    model: float | None  # log-probability by the online model
    memory: float | None  # bonus of the memory
    night: float | None  # bonus of the night
    wish: float | None  # bonus of the wish
    prefix: float | None  # log-probability of the item's prefix by the night
    path: int | None  # number of the thought whose prefix covers the item
    reason: str | None  # what speaks most for the item, as a sentence; None: no time for it
    agrees: Agreement | None  # that thought, if it names the item's topic
    because: list[ItemCard]


class RankedList(BaseModel):
    """The answer to one user, as served or as another side would serve it."""

    side: str
    label: str
    source: Source
    degraded: bool
    release: str
    generation: int | None
    total_ms: float
    items: list[ListedItem]


class Side(BaseModel):
    """A way to answer a user, to be compared with another one."""

    key: str
    label: str
    kind: str  # heading of the choice


class UserPage(BaseModel):
    """One user, seen now."""

    user_id: str
    history: list[SeenItem]  # newest first
    num_events: int  # of the whole history
    has_lost_history: bool
    troubles: list[str]  # why the state may be incomplete or old
    arms: list[str]  # experiments of the user, with the arm
    night: Night | None
    ranked: RankedList


class Found(BaseModel):
    """Users and items that fit a search."""

    users: list[str]
    items: list[ItemCard]
    has_all_users: bool


class Neighbour(ItemCard):
    weight: float


class ItemPage(ItemCard):
    """One item and its neighbours in the memory."""

    brand: str | None
    sid: list[int]
    popularity: int  # training interactions
    shares_prefix_with: int  # items below the same prefix
    neighbours: list[Neighbour]


class NewClick(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: UserIdText
    item_id: ItemIdText
    type: EventType | None = None


class Clicked(BaseModel):
    stored: bool
    new: bool | None
    reason: NotStored | None


class Wish(ThinkRequest):
    user_id: UserIdText


class Wished(BaseModel):
    workers_alive: int | None  # None: not known
    answer: str | None  # what was understood of the wish; None without one


class LiveNight(BaseModel):
    epoch: int
    generation: int
    created_at: int  # unix seconds
    users: int
    layers: int
    canary_percent: float | None


class Learner(BaseModel):
    """The model pointer that the service follows."""

    epoch: int
    deltas: int
    written_ms: int
    refusal: str | None


class Gates(BaseModel):
    """Gates of the live night."""

    verdicts: list[Verdict]
    forced: str | None  # reason for overruling failed ones


class Status(BaseModel):
    """The footer."""

    release: str
    model: str
    num_items: int
    unready: str | None
    night: LiveNight | None
    night_refusal: str | None
    gates: Gates | None  # None: not known of the live night
    learner: Learner | None
    workers_alive: int | None  # None: not known
    users_looked_at: int  # sample for the number below
    users_without_item: int  # none of their items is in this release
