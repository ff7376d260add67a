"""Read and write one user's state, with or without the store.

Every call to the store on the request path is made here. The circuit breaker is asked first, and
the last good copy of this process answers when the store cannot. Knows nothing of models, rungs or
HTTP.
"""

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from models.catalog.fed_items import FedItem
from models.catalog.sid import SidSpace
from models.errors import StoreUnavailable
from models.store.contract import ServingStore
from models.store.events import Event, Fate, merge_events
from models.store.records import PrefixRecord
from models.store.user_state import UserState
from models.store.wish_turns import WishTurn
from service.sources import NotStored, Reason
from service.users.breaker import Breaker
from service.users.local_state import ErasureWatch, EventBuffer, LastGoodCache


@dataclass(frozen=True)
class UserView:
    """A user's state as this process knows it now."""

    history: tuple[Event, ...]  # oldest first
    record: PrefixRecord | None
    troubles: tuple[Reason, ...] = ()  # why the state may be incomplete or old; empty: it is not
    has_lost_history: bool = False  # a part of the stored history does not decode
    wish: tuple[WishTurn, ...] = ()  # turns of the wish, oldest first; they may be over


T = TypeVar("T")
_NOTHING_KNOWN = UserView((), None)


class Appended(NamedTuple):
    """Result of one appended event."""

    stored: bool  # the history in the store has it
    new: bool | None  # None: unknown, because the store has not answered
    reason: NotStored | None = None  # why it is not stored


_APPENDED = {
    Fate.NEW: Appended(stored=True, new=True),
    Fate.REPEATED: Appended(stored=True, new=False),
    Fate.TOO_OLD: Appended(stored=False, new=False, reason=NotStored.TOO_OLD),
}
_WAITING = Appended(stored=False, new=None, reason=NotStored.WAITING)


class Users:
    """State of users: from the store while it answers, otherwise from this process."""

    def __init__(
        self,
        store: ServingStore,
        *,
        space: SidSpace,
        breaker: Breaker,
        cache: LastGoodCache,
        buffer: EventBuffer,
        erasures: ErasureWatch,
    ) -> None:
        self._store = store
        self._space = space
        self._breaker = breaker
        self._cache = cache
        self._buffer = buffer
        self._erasures = erasures

    async def read(
        self,
        user_id: str,
        layers: Sequence[int],
        *,
        patience_s: float = math.inf,
        is_kept: bool = True,
    ) -> UserView:
        """Return the history and the newest valid record of `layers` (generations, newest first).

        A failing store raises nothing: the last good copy answers. A store that is slower than
        `patience_s` is no failure to the breaker, because only this request was short of time.

        is_kept: keep the state as the last good copy; False for layers that are not live.
        """
        if self._erasures.hides(user_id):
            return _NOTHING_KNOWN
        if self._breaker.is_open:
            return self._from_copy(user_id, Reason.BREAKER)
        copy = self._cache.get(user_id)
        try:
            async with _within(patience_s):
                state = await self._store.read_user(user_id, layers, self._space, known=copy)
        except StoreUnavailable:
            self._breaker.record_failure()
            return self._from_copy(user_id, Reason.STORE)
        except TimeoutError:
            return self._from_copy(user_id, Reason.NO_TIME)
        self._breaker.record_success()
        if self._erasures.hides(user_id):  # requested while the store was being read
            return _NOTHING_KNOWN
        if state.record is None and state.skipped:
            state = replace(state, record=copy.record if copy else None)
        if is_kept:
            self._cache.keep(user_id, state)
        return self._view(user_id, state, troubles=tuple(Reason(why) for why in state.skipped))

    async def append(
        self, events: Mapping[str, Sequence[Event]], *, patience_s: float = math.inf
    ) -> dict[str, list[Appended]]:
        """Append each user's events to the store, or to the event buffer if the store fails.

        Events that the store may have taken before it failed go into the buffer too: the store
        drops duplicates by event id. Raises StoreUnavailable when the buffer has no room for all.
        """
        if not self._breaker.is_open and patience_s > 0:
            try:
                async with _within(patience_s):
                    fates = await self._store.append_each(events)
            except StoreUnavailable:
                self._breaker.record_failure()
            except TimeoutError:
                pass  # no failure of the store, as in `read`
            else:
                self._breaker.record_success()
                for user_id, of_user in events.items():
                    self._remember(user_id, of_user)
                return {
                    user_id: [_APPENDED[fate] for fate in of_user]
                    for user_id, of_user in fates.items()
                }
        self._buffer.put(events)
        return {user_id: [_WAITING] * len(of_user) for user_id, of_user in events.items()}

    async def request_thinking(self, user_id: str, instruction: str | None) -> None:
        """Raises StoreUnavailable."""
        await self._ask(self._store.request_thinking(user_id, instruction))

    async def read_wish(self, user_id: str) -> tuple[WishTurn, ...]:
        """Return the turns in the store; none for a user to be erased. Raises StoreUnavailable."""
        turns = await self._ask(self._store.read_wish(user_id))
        return () if self._erasures.hides(user_id) else turns

    async def write_wish(self, user_id: str, turns: Sequence[WishTurn], ttl_s: int) -> None:
        """Keep the turns, unless the user is to be erased. Raises StoreUnavailable."""
        if not self._erasures.hides(user_id):
            await self._ask(self._store.write_wish(user_id, turns, ttl_s))

    async def count_workers(self) -> int | None:
        """Return the number of workers that are alive; None if the store does not tell."""
        try:
            return await self._store.count_workers()
        except StoreUnavailable:
            return None

    async def request_erasure(self, user_id: str) -> None:
        """Raises StoreUnavailable."""
        await self._ask(self._erasures.request(user_id))

    async def offer_items(self, items: Sequence[FedItem]) -> None:
        """Raises StoreUnavailable."""
        await self._ask(self._store.offer_items(items))

    async def _ask(self, asking: Coroutine[Any, Any, T]) -> T:
        """Await a request to the store, also while the breaker is open: it cannot be buffered."""
        try:
            return await asking
        except StoreUnavailable:
            self._breaker.record_failure()
            raise

    async def read_thoughts(
        self, user_id: str, generation: int, *, patience_s: float = math.inf
    ) -> tuple[str, ...] | None:
        """Return the reasoning texts by path number; None when the store gives none in time."""
        if self._breaker.is_open:
            return None
        try:
            async with _within(patience_s):
                texts = await self._store.read_thoughts(user_id, generation)
        except StoreUnavailable:
            self._breaker.record_failure()
            return None
        except TimeoutError:
            return None
        self._breaker.record_success()
        return texts

    async def flush(self) -> int:
        """Send the buffered events to the store. Return the number of events that it took."""
        num_sent = 0
        for user_id in self._buffer.users():
            events = self._buffer.waiting(user_id)
            try:
                await self._store.append_events(user_id, events)
            except StoreUnavailable:
                self._breaker.record_failure()
                break
            self._buffer.settle(user_id, events)
            num_sent += len(events)
        return num_sent

    def _remember(self, user_id: str, events: Sequence[Event]) -> None:
        copy = self._cache.get(user_id)
        if copy:
            self._cache.keep(user_id, replace(copy, history=merge_events((*copy.history, *events))))

    def _from_copy(self, user_id: str, trouble: Reason) -> UserView:
        state = self._cache.get(user_id) or UserState(history=(), record=None, skipped=())
        return self._view(user_id, state, troubles=(trouble,))

    def _view(self, user_id: str, state: UserState, *, troubles: tuple[Reason, ...]) -> UserView:
        waiting = self._buffer.waiting(user_id)
        history = merge_events((*state.history, *waiting)) if waiting else state.history
        return UserView(history, state.record, troubles, state.has_lost_history, state.wish)


def _within(patience_s: float) -> asyncio.Timeout:
    return asyncio.timeout(None if math.isinf(patience_s) else max(patience_s, 0.0))
