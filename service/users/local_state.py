"""State of users that this process keeps between requests.

    LastGoodCache  the last good copy of each recent user's state, used while the store is away
    EventBuffer    events that the store could not take yet
    LiveHits       last answers of users, until their next events judge them
    ErasureWatch   users with an erasure request; it removes them from the first two

All are bounded and belong to the event loop. Knows nothing of models, rungs or HTTP.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from models.errors import StoreUnavailable
from models.store.contract import ServingStore
from models.store.events import Event
from models.store.model_pointer import LiveVersion
from models.store.records import hash_user
from models.store.user_state import UserState

_TOP = 10  # items of an answer that events judge
_LATELY_S = 3600.0  # an older answer is judged by no event
_CLOCKS_S = 60.0  # an event may be dated so long before the answer that it follows


class LastGoodCache:
    """States of at most `limit` users, the least recently used dropped first.

    Only successful reads fill it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[str, UserState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, user_id: str) -> UserState | None:
        if user_id in self._states:
            self._states.move_to_end(user_id)
        return self._states.get(user_id)

    def with_records(self, limit: int) -> list[str]:
        """Return up to `limit` users that have a record, the most recently used first."""
        found = (user_id for user_id in reversed(self._states) if self._states[user_id].record)
        return list(islice(found, limit))

    def keep(self, user_id: str, state: UserState) -> None:
        self._states[user_id] = state
        self._states.move_to_end(user_id)
        if len(self._states) > self._limit:
            self._states.popitem(last=False)

    def users(self) -> tuple[str, ...]:
        return tuple(self._states)

    def drop(self, user_id: str) -> None:
        self._states.pop(user_id, None)


class EventBuffer:
    """At most `limit` events that wait in memory until the store is back.

    They are lost if the process ends first; the answer to the caller says so. Sending them again
    is safe, because the store drops duplicates by event id.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: dict[str, tuple[Event, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, events: Mapping[str, Sequence[Event]]) -> None:
        """Add events by user. Raises StoreUnavailable, and adds none, unless all of them fit."""
        merged = {user: _join(self.waiting(user), new) for user, new in events.items()}
        count = self._count + sum(
            len(joined) - len(self.waiting(user)) for user, joined in merged.items()
        )
        if count > self._limit:
            raise StoreUnavailable(
                f"the store is away and {self._count} events wait for it already, "
                f"expected at most {self._limit}"
            )
        self._events.update(merged)
        self._count = count

    def waiting(self, user_id: str) -> tuple[Event, ...]:
        return self._events.get(user_id, ())

    def users(self) -> tuple[str, ...]:
        return tuple(self._events)

    def drop(self, user_id: str) -> None:
        """Remove all events of a user."""
        self.settle(user_id, self.waiting(user_id))

    def settle(self, user_id: str, stored: tuple[Event, ...]) -> None:
        """Remove the events that the store has taken; later events of the same user stay."""
        rest = tuple(event for event in self.waiting(user_id) if event not in stored)
        self._count -= len(self.waiting(user_id)) - len(rest)
        if rest:
            self._events[user_id] = rest
        else:
            self._events.pop(user_id, None)


class _Shown(NamedTuple):
    """The last answer of one user."""

    model: str  # own, canary or arm
    item_ids: tuple[str, ...]
    at_s: float  # unix seconds


class LiveHits:
    """Live recall: was a user's next event of an item among the first ten of the last answer?

    The first event behind an answer judges it, whatever the answer's rung. Answers of at most
    `limit` users are remembered, by a hash of the user. The counts begin again with each canary, so
    that the canary and the others are counted over the same time.
    """

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

    def first_shown(self, user_id: str, *, now_s: float) -> str | None:
        """Return the first item of the user's last answer; None without a late one."""
        shown = self._shown.get(hash(user_id))
        if shown is None or not shown.item_ids or now_s > shown.at_s + _LATELY_S:
            return None
        return shown.item_ids[0]

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


class ErasureWatch:
    """Users with an erasure request that the store still lists as waiting.

    Until the erasure is done, such a user is served like an unknown one, though the store still
    holds the data. Every process polls the store for all requests. The process that took a request
    hides the user at once, before the next poll.
    """

    def __init__(self, store: ServingStore, *, cache: LastGoodCache, buffer: EventBuffer) -> None:
        self._store = store
        self._cache = cache
        self._buffer = buffer
        self._waiting: frozenset[str] = frozenset()
        self._requested: set[str] = set()  # in this process, and not yet in the store's answer
        self._last: str | None = None  # where the next poll continues

    def __len__(self) -> int:
        return len(self._waiting | self._requested)

    def hides(self, user_id: str) -> bool:
        return user_id in self._waiting or user_id in self._requested

    async def request(self, user_id: str) -> None:
        """Ask for an erasure and hide the user in this process. Raises StoreUnavailable."""
        await self._store.request_erasure(user_id)
        self._requested.add(user_id)
        self._forget(frozenset([user_id]), frozenset())

    async def poll(self) -> None:
        """Raises StoreUnavailable."""
        requested_before = frozenset(self._requested)
        found = await self._store.read_erasures(self._last)
        self._waiting, self._last = found.waiting, found.last
        self._requested -= requested_before
        self._forget(found.waiting, found.erased)

    def _forget(self, user_ids: frozenset[str], hashes: frozenset[int]) -> None:
        if not user_ids and not hashes:
            return
        for user_id in (*self._cache.users(), *self._buffer.users()):
            if user_id in user_ids or (hashes and hash_user(user_id) in hashes):
                self._cache.drop(user_id)
                self._buffer.drop(user_id)


def _join(waiting: tuple[Event, ...], new: Sequence[Event]) -> tuple[Event, ...]:
    """Append the new events, without ids that wait already."""
    known = {event.event_id for event in waiting}
    fresh = {event.event_id: event for event in reversed(new) if event.event_id not in known}
    return (*waiting, *reversed(fresh.values()))
