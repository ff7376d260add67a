"""The last good copy of each recent user's state, for when the store cannot be asked.

A bounded least-recently-used map, filled by successful reads only. Knows nothing of the store.
"""

from collections import OrderedDict
from itertools import islice

from models.store.user_state import UserState


class Copies:
    """At most `limit` users; used from the event loop only."""

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
        """Users seen lately who had a record, the latest first."""
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
