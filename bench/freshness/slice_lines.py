"""Lines of a learner about its slices, and the version that first has the weights of an event.

A slice is tested before it is learnt. Its verdict is therefore about the slices before it, and its
own events wait for the next decision.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from bench.freshness.live_versions import Entry, Version
from models.store.contract import order_of

_ACCEPTED, _REFUSED = "accepted", "refused"

Fate = Version | Literal["dropped", "open"]


class SliceLine(NamedTuple):
    """One line of the learner, in the order of slices."""

    until: Entry  # of its last event
    is_learnt: bool  # False without events, and for a poisoned slice
    outcome: str  # of the candidate that has not learnt this slice
    is_slow: bool  # accepted, and not published yet
    published: Version | None  # None if that failed
    items: int  # of the feed

    @classmethod
    def parse(cls, line: str) -> Self:
        fields = json.loads(line)
        return cls(
            until=order_of(fields["until"]),
            is_learnt="loss" in fields,
            outcome=fields["outcome"],
            is_slow="slow" in fields,
            published=Version.parse(fields["published"]) if "published" in fields else None,
            items=fields["items"],
        )


def read_lines(file: Path) -> list[SliceLine]:
    """Read the whole lines of a file that a learner may still write."""
    whole, _, _ = file.read_text().rpartition("\n")
    return [SliceLine.parse(line) for line in whole.splitlines()]


def fate_of(entry: Entry, lines: Sequence[SliceLine]) -> Fate:
    """Return the version that first has the weights of an event.

    "dropped" if a gate refused them or the slice was not learnt; "open" if it is not decided yet.
    """
    later = iter(lines)
    own = next((line for line in later if line.until >= entry), None)
    if own is None:
        return "open"
    if not own.is_learnt:
        return "dropped"
    is_accepted = is_owed = False
    for line in later:
        if line.outcome == _REFUSED and not is_accepted:
            return "dropped"
        if line.outcome == _ACCEPTED:
            is_accepted, is_owed = True, not line.is_slow
        if is_owed and line.published is not None:
            return line.published
    return "open"
