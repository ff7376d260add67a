"""Pair counts that grow event by event, and the evidence that a history gives by them.

A sorted table holds the counts of the beginning. What comes later stands in one list per item, so
that an event adds the few pairs of its window and moves nothing. Knows rows of items only.
"""

# N = items, A = recent items (newest first), P = pairs

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from models.online.memory.memory_settings import MemorySettings
from models.online.memory.pair_counts import Counts, Ints, PairCounts, pairs_of_event, sum_at


class LiveCounts:
    """Counts that are up to date after each event, with weights by the totals of that moment."""

    def __init__(
        self, histories: Sequence[Sequence[int]], num_items: int, settings: MemorySettings
    ) -> None:
        """Count whole histories, each oldest first."""
        table = PairCounts.of_histories(histories, num_items, settings)
        self._settings = settings
        self._first = np.searchsorted(table.items(), np.arange(num_items + 1))
        self._later_P, self._count_P = table.later_items(), table.count_P
        self._item_total_N, self._later_total_N = table.item_total_N, table.later_total_N
        self._since: dict[int, list[tuple[int, float]]] = defaultdict(list)  # item -> later, count

    def add(self, history: Sequence[int], row: int) -> None:
        """Count one event; `history` is before it, oldest first."""
        pairs = pairs_of_event(history, row, self._settings)
        for item, later, count in zip(*(column.tolist() for column in pairs), strict=True):
            self._since[item].append((later, count))
            self._item_total_N[item] += count
            self._later_total_N[later] += count

    def evidence(self, history: Sequence[int]) -> Counts:
        """Return the evidence for every item, (N,): 0 for an item never counted with the newest."""
        settings = self._settings
        later, weight = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for age, item in enumerate(history[: -settings.recent - 1 : -1]):
            later_P, count_P = self._pairs(item)
            total = (self._item_total_N[item] + settings.shrink) ** settings.item_power
            later.append(later_P)
            weight.append(count_P * (settings.decay**age / total))
        later_P, weight_P = np.concatenate(later), np.concatenate(weight)
        total_P = (self._later_total_N[later_P] + settings.shrink) ** settings.later_power
        return sum_at(later_P, weight_P / total_P, len(self._later_total_N))

    def _pairs(self, item: int) -> tuple[Ints, Counts]:
        """Return later items and counts of an item's pairs; an item may occur several times."""
        near = slice(self._first[item], self._first[item + 1])
        later_P, count_P = self._later_P[near], self._count_P[near]
        if since := self._since.get(item):
            more, counts = zip(*since, strict=True)
            later_P, count_P = np.append(later_P, more), np.append(count_P, counts)
        return later_P, count_P
