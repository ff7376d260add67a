"""Limits of one user and of one item within one slice, for counts and weights.

Decides event by event from the log alone, so that a repeated run decides the same. Knows nothing of
models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.store.contract import Logged


@dataclass(frozen=True)
class GuardSettings:
    """Limits of one slice."""

    user_events: int = 50  # of one user
    item_events: int = 200  # of one item ...
    item_share: float = 0.05  # ... or this share of the events of the slice before, if that is more
    held_share: float = (
        0.5  # of the events held back: more, and the weights learn none of the slice
    )


@dataclass
class Window:
    """Events of one slice so far."""

    number: int = -1
    num_before: int = 0  # events of the slice before
    users: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)

    @property
    def num_events(self) -> int:
        return self.users.total()


@dataclass
class Held:
    """Events of one slice that were held back."""

    users: Counter[str] = field(default_factory=Counter)  # events by user above the limit
    items: Counter[str] = field(default_factory=Counter)

    @property
    def num_events(self) -> int:
        return self.users.total() + self.items.total()

    def describe(self) -> str:
        """Return one line that names the worst of each kind; "" without any."""
        parts = [
            f"{counter.total():,} events above the limit of one {kind} "
            f"({', '.join(f'{name!r} {count:,}' for name, count in counter.most_common(3))})"
            for kind, counter in (("user", self.users), ("item", self.items))
            if counter
        ]
        return "; ".join(parts)


class Guard:
    """Admits events in the order of the log."""

    def __init__(self, settings: GuardSettings, slice_ms: int) -> None:
        self._settings, self._slice_ms = settings, slice_ms
        self._window = Window()
        self._num_ended = 0  # slices since the window began
        self._held = Held()

    def admits(self, logged: Logged) -> bool:
        """Count an event against the limits, and tell if it is within them."""
        self._turn_to(logged.arrived_ms // self._slice_ms)
        window, user_id, item_id = self._window, logged.user_id, logged.event.item_id
        window.users[user_id] += 1
        if window.users[user_id] > self._settings.user_events:
            self._held.users[user_id] += 1
            return False
        window.items[item_id] += 1
        if window.items[item_id] > self._most_of_an_item():
            self._held.items[item_id] += 1
            return False
        return True

    def take_held(self) -> Held:
        """End a slice: return the events held back since the last call."""
        self._num_ended += 1
        held, self._held = self._held, Held()
        return held

    def _turn_to(self, number: int) -> None:
        """Begin a new window with the first event behind the present one.

        A store whose clock jumped ahead gives all events one time of arrival until its clock is
        there again. Then a window ends with the second slice: late events may make one more.
        """
        stands_still = number <= self._window.number and self._num_ended > 1
        if number > self._window.number or stands_still:
            is_next = stands_still or number == self._window.number + 1
            num_before = self._window.num_events if is_next else 0
            self._window = Window(max(number, self._window.number), num_before)
            self._num_ended = 0

    def _most_of_an_item(self) -> float:
        return max(self._settings.item_events, self._settings.item_share * self._window.num_before)


def is_poisoned(held: Held, num_events: int, settings: GuardSettings) -> bool:
    """Tell if so much of a slice was held back that the rest teaches nothing either."""
    return held.num_events > settings.held_share * num_events


def unsuspected(events: Sequence[Logged], held: Held) -> list[bool]:
    """Tell for each event if neither its user nor its item went above a limit in this slice."""
    return [
        logged.user_id not in held.users and logged.event.item_id not in held.items
        for logged in events
    ]
