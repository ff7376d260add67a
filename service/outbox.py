"""Events that the store could not take yet.

Kept in this process's memory until the store is back, and lost if the process dies first: the
answer to the caller says so. Replaying is safe, as the store deduplicates by event id.
"""

from models.errors import StoreUnavailable
from models.events import Event


class Outbox:
    """At most `limit` events; used from the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: dict[str, tuple[Event, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, user_id: str, event: Event) -> None:
        """Keep an event for later. Raises StoreUnavailable when full."""
        waiting = self._events.get(user_id, ())
        if any(event.event_id == other.event_id for other in waiting):
            return
        if self._count >= self._limit:
            raise StoreUnavailable(
                f"the store is away and {self._limit} events wait for it already"
            )
        self._events[user_id] = (*waiting, event)
        self._count += 1

    def waiting(self, user_id: str) -> tuple[Event, ...]:
        return self._events.get(user_id, ())

    def users(self) -> tuple[str, ...]:
        return tuple(self._events)

    def settle(self, user_id: str, stored: tuple[Event, ...]) -> None:
        """Forget the events that the store has taken; later ones of the same user stay."""
        rest = tuple(event for event in self.waiting(user_id) if event not in stored)
        self._count -= len(self.waiting(user_id)) - len(rest)
        if rest:
            self._events[user_id] = rest
        else:
            self._events.pop(user_id, None)
