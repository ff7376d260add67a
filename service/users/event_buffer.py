"""Events that the store could not take yet.

Kept in this process's memory until the store is back, and lost if the process dies first: the
answer to the caller says so. Replaying is safe, as the store deduplicates by event id.
"""

from collections.abc import Mapping, Sequence

from models.errors import StoreUnavailable
from models.store.events import Event


class Outbox:
    """At most `limit` events; used from the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: dict[str, tuple[Event, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, events: Mapping[str, Sequence[Event]]) -> None:
        """Keep events for later, by user. Raises StoreUnavailable unless there is room for all."""
        merged = {user: _joined(self.waiting(user), new) for user, new in events.items()}
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
        """Forget all events of a user, who is to be forgotten."""
        self.settle(user_id, self.waiting(user_id))

    def settle(self, user_id: str, stored: tuple[Event, ...]) -> None:
        """Forget the events that the store has taken; later ones of the same user stay."""
        rest = tuple(event for event in self.waiting(user_id) if event not in stored)
        self._count -= len(self.waiting(user_id)) - len(rest)
        if rest:
            self._events[user_id] = rest
        else:
            self._events.pop(user_id, None)


def _joined(waiting: tuple[Event, ...], new: Sequence[Event]) -> tuple[Event, ...]:
    """Without those that wait already, by their ids."""
    known = {event.event_id for event in waiting}
    fresh = {event.event_id: event for event in reversed(new) if event.event_id not in known}
    return (*waiting, *reversed(fresh.values()))
