"""Live recall: was the next event of a user among the first ten items of the last answer?

The first event behind an answer judges it, whatever the answer's rung. Answers of at most `limit`
users are remembered, by a hash of the user. The counts begin again with each canary, so that the
canary and the others are counted over the same time. Knows nothing of HTTP or stores.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from models.store.events import Event
from models.store.model_pointer import LiveVersion

_TOP = 10
_LATELY_S = 3600.0  # an older answer is judged by no event
_CLOCKS_S = 60.0  # an event may be dated so long before the answer that it follows


class _Shown(NamedTuple):
    """The last answer of one user."""

    model: str  # own, canary or arm
    item_ids: tuple[str, ...]
    at_s: float  # unix seconds


class LiveHits:
    """Last answers of users, and the counts of events that judged them, by model."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shown: OrderedDict[int, _Shown] = OrderedDict()  # by hash of the user id
        self._canary: LiveVersion | None = None  # the last one
        self.num_judged: Counter[str] = Counter()
        self.num_hits: Counter[str] = Counter()

    def follow(self, canary: LiveVersion | None) -> None:
        """Forget all answers and counts if another canary begins."""
        if canary is None or canary == self._canary:
            return
        self._canary = canary
        self._shown.clear()
        self.num_judged.clear()
        self.num_hits.clear()

    def show(self, user_id: str, model: str, item_ids: Iterable[str], *, now_s: float) -> None:
        """Remember an answer in the place of the one before."""
        key = hash(user_id)
        self._shown[key] = _Shown(model, tuple(islice(item_ids, _TOP)), now_s)
        self._shown.move_to_end(key)
        if len(self._shown) > self._limit:
            self._shown.popitem(last=False)

    def judge(self, user_id: str, events: Sequence[Event], *, now_s: float) -> None:
        """Judge the user's last answer by the first of some new events that follows it."""
        shown = self._shown.get(hash(user_id))
        if shown is None:
            return
        later = (event for event in events if event.timestamp >= shown.at_s - _CLOCKS_S)
        first = next(later, None)
        if first is None:
            return
        del self._shown[hash(user_id)]
        if now_s <= shown.at_s + _LATELY_S:
            self.num_judged[shown.model] += 1
            self.num_hits[shown.model] += first.item_id in shown.item_ids
