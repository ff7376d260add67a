"""What is known of one user, whether or not the store answers.

Every call to the store on the request path goes through here: past the breaker, with this process's
last good copy behind it. Knows nothing of models, rungs or HTTP.
"""

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from models.catalog.sid import SidSpace
from models.errors import StoreUnavailable
from models.store.contract import ServingStore
from models.store.events import Event, merge_events
from models.store.records import PrefixRecord
from models.store.user_state import UserState
from service.sources import Reason
from service.users.breaker import Breaker
from service.users.erasures import ErasureWatch
from service.users.event_buffer import Outbox
from service.users.last_good import Copies


@dataclass(frozen=True)
class UserView:
    """A user as this process sees them now; history oldest first.

    troubles: why the record may be less than the truth; empty when the store gave it in full.
    has_lost_history: some of what the store holds as the history does not decode.
    """

    history: tuple[Event, ...]
    record: PrefixRecord | None
    troubles: tuple[Reason, ...] = ()
    has_lost_history: bool = False


_NOTHING_KNOWN = UserView((), None)


class Appended(NamedTuple):
    stored: bool
    new: bool | None  # None: only the store could tell


class Users:
    def __init__(
        self,
        store: ServingStore,
        *,
        space: SidSpace,
        breaker: Breaker,
        copies: Copies,
        outbox: Outbox,
        erasures: ErasureWatch,
    ) -> None:
        self._store = store
        self._space = space
        self._breaker = breaker
        self._copies = copies
        self._outbox = outbox
        self._erasures = erasures

    async def read(
        self,
        user_id: str,
        layers: Sequence[int],
        *,
        patience_s: float = math.inf,
        is_kept: bool = True,
    ) -> UserView:
        """Newest valid record of the live `layers` and the history; never raises for the store.

        is_kept: as the last good copy; not for layers other than the live ones.

        A store that is slower than `patience_s` has done nothing wrong: the breaker is not told.
        """
        if self._erasures.hides(user_id):
            return _NOTHING_KNOWN
        if self._breaker.is_open:
            return self._from_copy(user_id, Reason.BREAKER)
        copy = self._copies.get(user_id)
        try:
            async with _within(patience_s):
                state = await self._store.read_user(user_id, layers, self._space, known=copy)
        except StoreUnavailable:
            self._breaker.failed()
            return self._from_copy(user_id, Reason.STORE)
        except TimeoutError:
            return self._from_copy(user_id, Reason.NO_TIME)
        self._breaker.succeeded()
        if self._erasures.hides(user_id):  # since the reading began
            return _NOTHING_KNOWN
        if state.record is None and state.skipped:
            state = replace(state, record=copy.record if copy else None)
        if is_kept:
            self._copies.keep(user_id, state)
        return self._view(user_id, state, troubles=tuple(Reason(why) for why in state.skipped))

    async def append(
        self, events: Mapping[str, Sequence[Event]], *, patience_s: float = math.inf
    ) -> dict[str, list[Appended]]:
        """Each user's events into the store, else into the outbox.

        Those that the store may have taken go into the outbox as well: there they count once.
        Raises StoreUnavailable when that has no room for all of them either.
        """
        if not self._breaker.is_open and patience_s > 0:
            try:
                async with _within(patience_s):
                    new = await self._store.append_each(events)
            except StoreUnavailable:
                self._breaker.failed()
            except TimeoutError:
                pass  # as in `read`: nobody's fault but the time's
            else:
                self._breaker.succeeded()
                for user_id, of_user in events.items():
                    self._remember(user_id, of_user)
                return {
                    user_id: [Appended(stored=True, new=is_new) for is_new in flags]
                    for user_id, flags in new.items()
                }
        self._outbox.put(events)
        waiting = Appended(stored=False, new=None)
        return {user_id: [waiting] * len(of_user) for user_id, of_user in events.items()}

    async def request_thinking(self, user_id: str, instruction: str | None) -> None:
        """Raises StoreUnavailable."""
        await self._ask(self._store.request_thinking(user_id, instruction))

    async def request_erasure(self, user_id: str) -> None:
        """Raises StoreUnavailable."""
        await self._ask(self._erasures.request(user_id))

    async def _ask(self, asking: Coroutine[Any, Any, None]) -> None:
        """Also past an open breaker: what cannot wait in this process is refused or done."""
        try:
            await asking
        except StoreUnavailable:
            self._breaker.failed()
            raise

    async def read_thoughts(
        self, user_id: str, generation: int, *, patience_s: float = math.inf
    ) -> tuple[str, ...] | None:
        """Texts by path number; None when the store cannot be asked, or not in time."""
        if self._breaker.is_open:
            return None
        try:
            async with _within(patience_s):
                texts = await self._store.read_thoughts(user_id, generation)
        except StoreUnavailable:
            self._breaker.failed()
            return None
        except TimeoutError:
            return None
        self._breaker.succeeded()
        return texts

    async def flush(self) -> int:
        """Hand the waiting events to a store that answers again; how many it took."""
        num_sent = 0
        for user_id in self._outbox.users():
            events = self._outbox.waiting(user_id)
            try:
                await self._store.append_events(user_id, events)
            except StoreUnavailable:
                self._breaker.failed()
                break
            self._outbox.settle(user_id, events)
            num_sent += len(events)
        return num_sent

    def _remember(self, user_id: str, events: Sequence[Event]) -> None:
        copy = self._copies.get(user_id)
        if copy:
            self._copies.keep(
                user_id, replace(copy, history=merge_events((*copy.history, *events)))
            )

    def _from_copy(self, user_id: str, trouble: Reason) -> UserView:
        state = self._copies.get(user_id) or UserState(history=(), record=None, skipped=())
        return self._view(user_id, state, troubles=(trouble,))

    def _view(self, user_id: str, state: UserState, *, troubles: tuple[Reason, ...]) -> UserView:
        waiting = self._outbox.waiting(user_id)
        history = merge_events((*state.history, *waiting)) if waiting else state.history
        return UserView(history, state.record, troubles, state.has_lost_history)


def _within(patience_s: float) -> asyncio.Timeout:
    return asyncio.timeout(None if math.isinf(patience_s) else max(patience_s, 0.0))
