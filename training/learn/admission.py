"""Events on their way to be learnt: each one once, and within the limits of the guard.

Decides from the log alone. Knows nothing of models or catalogs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.store.contract import Logged
from training.learn.guard import Guard, GuardSettings, Held, is_poisoned
from training.learn.histories import Histories

_REMEMBERED = 200_000  # events whose ids are remembered


@dataclass
class SliceEvents:
    """Admitted events of one slice."""

    events: list[Logged] = field(default_factory=list)
    # By user, items before the slice, and events since: both oldest first.
    before: dict[str, tuple[str, ...]] = field(default_factory=dict)
    of_user: dict[str, list[Logged]] = field(default_factory=dict)
    held: Held = field(default_factory=Held)
    num_seen: int = 0  # events offered, but for repeated ones

    @property
    def suspects(self) -> tuple[set[str], set[str]]:
        """Return users and items of which events were held back."""
        return set(self.held.users), set(self.held.items)

    def is_poisoned(self, settings: GuardSettings) -> bool:
        return is_poisoned(self.held, self.num_seen, settings)


class Admission:
    """Takes the events of the log one by one, and keeps the histories."""

    def __init__(self, histories: Histories, settings: GuardSettings, slice_ms: int) -> None:
        self.histories = histories
        self._guard = Guard(settings, slice_ms)
        self._seen: dict[tuple[str, str], None] = {}
        self._slice = SliceEvents()

    def offer(self, logged: Logged) -> Sequence[str] | None:
        """Admit an event: return the items before it, oldest first; None for one that is not."""
        if self._is_repeated(logged):
            return None
        self._slice.num_seen += 1
        if not self._guard.admits(logged):
            return None
        user_id, before = logged.user_id, tuple(self.histories[logged.user_id])
        self._slice.events.append(logged)
        self._slice.before.setdefault(user_id, before)
        self._slice.of_user.setdefault(user_id, []).append(logged)
        self.histories.append(user_id, logged.event)
        return before

    def end_slice(self) -> SliceEvents:
        """Return the slice so far, and begin the next one."""
        ended, self._slice = self._slice, SliceEvents()
        ended.held = self._guard.take_held()
        return ended

    def _is_repeated(self, logged: Logged) -> bool:
        key = logged.user_id, logged.event.event_id
        if key in self._seen or self.histories.has(logged):
            return True
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return False
