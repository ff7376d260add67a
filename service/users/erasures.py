"""Users who are to be erased: this process forgets them as soon as it knows.

Between a request and its end, a user whose data are still in the store is served like one of whom
nothing is known. Every process looks at what the store says of all of them; the one that took a
request does not wait for that. Knows nothing of how a user is erased.
"""

from models.store.contract import ServingStore
from models.store.records import hash_user
from service.users.event_buffer import Outbox
from service.users.last_good import Copies


class ErasureWatch:
    """Used from the event loop only."""

    def __init__(self, store: ServingStore, *, copies: Copies, outbox: Outbox) -> None:
        self._store = store
        self._copies = copies
        self._outbox = outbox
        self._waiting: frozenset[str] = frozenset()
        self._asked: set[str] = set()  # here, and not yet seen in the store's answer
        self._last: str | None = None

    def __len__(self) -> int:
        return len(self._waiting | self._asked)

    def hides(self, user_id: str) -> bool:
        return user_id in self._waiting or user_id in self._asked

    async def request(self, user_id: str) -> None:
        """From its return on, nothing of the user is served here. Raises StoreUnavailable."""
        await self._store.request_erasure(user_id)
        self._asked.add(user_id)
        self._forget(frozenset([user_id]), frozenset())

    async def poll(self) -> None:
        """Raises StoreUnavailable."""
        asked_before = frozenset(self._asked)
        found = await self._store.read_erasures(self._last)
        self._waiting, self._last = found.waiting, found.last
        self._asked -= asked_before
        self._forget(found.waiting, found.erased)

    def _forget(self, user_ids: frozenset[str], hashes: frozenset[int]) -> None:
        if not user_ids and not hashes:
            return
        for user_id in (*self._copies.users(), *self._outbox.users()):
            if user_id in user_ids or (hashes and hash_user(user_id) in hashes):
                self._copies.drop(user_id)
                self._outbox.drop(user_id)
