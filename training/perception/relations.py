"""Relations of items: pairs that users buy after each other or together, and pairs they do not."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.reasoner.perception_prompts import UNRELATED

AFTER, TOGETHER = "Bought next", "Bought together"
_OFTEN = "often"
_WINDOW = 4  # items between which two purchases count as together
_LEAST_USERS, _OFTEN_USERS = 2, 5
_UNRELATED_SHARE = 0.25  # of all pairs


class Relation(NamedTuple):
    """Two catalog rows and their relation; `AFTER` has an order."""

    first: int
    second: int
    kind: str  # words for the relation


def find_relations(
    histories: Sequence[Sequence[int]], rng: np.random.Generator, *, num_items: int
) -> list[Relation]:
    """Return the pairs that at least two users bought, and random pairs that nobody did.

    The pairs of most users come first in each relation. A pair in both relations is `AFTER` only.

    histories: catalog rows, oldest first.
    """
    after, together = _count(histories)
    found = [
        Relation(first, second, _worded(AFTER, count))
        for (first, second), count in _ranked(after)
        if count >= _LEAST_USERS
    ]
    known = {frozenset(one[:2]) for one in found}
    found += [
        Relation(first, second, _worded(TOGETHER, count))
        for (first, second), count in _ranked(together)
        if count >= _LEAST_USERS and frozenset((first, second)) not in known
    ]
    num = round(len(found) * _UNRELATED_SHARE / (1 - _UNRELATED_SHARE))
    pairs = rng.integers(num_items, size=(num, 2)).tolist()
    found += [
        Relation(first, second, UNRELATED)
        for first, second in pairs
        if first != second and not together[min(first, second), max(first, second)]
    ]
    return found


def _count(
    histories: Sequence[Sequence[int]],
) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """Count the users of each ordered pair of neighbours, and of each pair within the window."""
    after: Counter[tuple[int, int]] = Counter()
    together: Counter[tuple[int, int]] = Counter()
    for rows in histories:
        after.update({pair for pair in pairwise(rows) if pair[0] != pair[1]})
        near = {
            (min(first, second), max(first, second))
            for at, first in enumerate(rows)
            for second in rows[at + 1 : at + _WINDOW]
            if first != second
        }
        together.update(near)
    return after, together


def _ranked(counts: Counter[tuple[int, int]]) -> list[tuple[tuple[int, int], int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _worded(kind: str, num_users: int) -> str:
    return f"{kind}, {_OFTEN}" if num_users >= _OFTEN_USERS else kind
