"""Histories of all users as a learner knows them: a data folder, and the log behind it.

Items are ids, so that a catalog may grow. Events of the log that the data folder has already are
left out: they are equal in user, item and time.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from models.catalog.dataset import Dataset
from models.store.contract import Logged
from models.store.events import HISTORY_LIMIT, Event
from models.store.records import hash_user
from training.event_types import TypeWeights, weight_of

IsErased = Callable[[str, int], bool]  # by user id and moment, in unix milliseconds


class Histories:
    """The newest items of each user, oldest first."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        is_erased: IsErased = lambda user, moment: False,
        types: TypeWeights | None = None,
    ) -> None:
        """Leave out erased events; a user may have come back after an erasure.

        types: weights of event types, for the histories that are drawn.
        """
        kept = {
            user: [event for event in found if not is_erased(user, 1000 * event.timestamp)]
            for user, found in dataset.histories.items()
        }
        self._items: dict[str, list[str]] = defaultdict(list)
        self._items |= {
            user: [event.item_id for event in found][-HISTORY_LIMIT:]
            for user, found in kept.items()
        }
        self._types = types or {}
        self._weights: dict[str, list[float]] = defaultdict(list)  # of `_items`
        self._weights |= {
            user: [weight_of(self._types, event.type) for event in found][-HISTORY_LIMIT:]
            for user, found in kept.items()
        }
        self._known = (
            {
                (user, event.item_id, event.timestamp)
                for user, found in kept.items()
                for event in found
            }
            if dataset.has_times
            else set()
        )
        # Sorted, so that a seed draws the same users on every machine. Users of the data only.
        self._old = sorted(user for user, items in self._items.items() if len(items) > 1)

    def __getitem__(self, user_id: str) -> Sequence[str]:
        return self._items.get(user_id, ())

    def has(self, logged: Logged) -> bool:
        """Tell if the data folder has an event of the log."""
        return (logged.user_id, logged.event.item_id, logged.event.timestamp) in self._known

    def append(self, user_id: str, event: Event) -> None:
        items, weights = self._items[user_id], self._weights[user_id]
        items.append(event.item_id)
        weights.append(weight_of(self._types, event.type))
        if len(items) > 2 * HISTORY_LIMIT:
            del items[:-HISTORY_LIMIT], weights[:-HISTORY_LIMIT]

    def forget(self, users: frozenset[int]) -> None:
        """Drop the histories of users, given by `hash_user`; they are drawn as empty ones."""
        for user_id in [user_id for user_id in self._items if hash_user(user_id) in users]:
            del self._items[user_id], self._weights[user_id]

    @property
    def has_old(self) -> bool:
        return bool(self._old)

    def draw_old(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """Draw a user of the data folder; return the items, and the weights of their events."""
        user_id = self._old[int(rng.integers(len(self._old)))]
        return list(zip(self[user_id], self._weights.get(user_id, ()), strict=True))

    def sample_old(self, count: int, *, seed: int) -> list[tuple[str, ...]]:
        """Draw histories of distinct users of the data folder; before any event, the same."""
        chosen = np.random.default_rng(seed).permutation(len(self._old))[:count]
        return [tuple(self._items[self._old[at]]) for at in sorted(chosen.tolist())]
