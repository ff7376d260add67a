"""Pair counts that grow event by event and item by item, and the neighbours that follow from them.

A sorted table holds the counts of the beginning and never changes. Later counts stand in one small
table per item, so an event adds the few pairs of its window and moves nothing. Knows rows of items
only.
"""

# N = items, P = pairs, R = asked rows, T = pairs of the table, S = pairs since

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.trie import expand_ranges
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import (
    Counts,
    Ints,
    PairCounts,
    Pairs,
    largest_of_each,
    pairs_of_event,
    sum_at,
    sum_equal,
)
from models.online.memory.similar_items import SimilarItems

Arrays = dict[str, NDArray[Any]]


class NeighbourLists(NamedTuple):
    """The neighbours of some rows, strongest first, one row after the other."""

    row_R: Ints  # ascending
    first: Ints  # of each row its first place in the arrays below, and at the end their length
    neighbour_P: NDArray[np.int32]
    weight_P: NDArray[np.float32]


class LiveCounts:
    """Counts that are up to date after each event, with weights by the totals of that moment."""

    def __init__(self, table: PairCounts, similar: SimilarItems, settings: MemorySettings) -> None:
        """Raises ValueError for similar items of another number of items."""
        if len(similar) != table.num_items:
            raise ValueError(f"similar items of {len(similar)} rows, expected {table.num_items}")
        self.settings = settings
        self.similar = similar
        self._table = table
        self._first = np.searchsorted(table.items(), np.arange(table.num_items + 1))
        self._item_total_N = table.item_total_N.copy()
        self._later_total_N = table.later_total_N.copy()
        self._since: dict[int, dict[int, float]] = {}  # item -> later item -> count
        self._touched: set[int] = set()

    @classmethod
    def of_memory(cls, memory: Memory) -> "LiveCounts":
        """Go on from the memory of a release; a memory that was read has kept pairs only."""
        return cls(memory.counts, memory.similar, memory.settings)

    @classmethod
    def of_histories(
        cls, histories: Sequence[Sequence[int]], num_items: int, settings: MemorySettings
    ) -> "LiveCounts":
        """Count whole histories, each oldest first, without similar items."""
        table = PairCounts.of_histories(histories, num_items, settings)
        return cls(table, SimilarItems.none(num_items), settings)

    def __len__(self) -> int:
        return len(self._item_total_N)

    def add(self, history: Sequence[int], row: int, weight: float = 1.0) -> None:
        """Count one event `weight` times; `history` is before it, oldest first."""
        pairs = pairs_of_event(history, row, self.settings)
        for item, later, count in zip(*(column.tolist() for column in pairs), strict=True):
            since = self._since.setdefault(item, {})
            since[later] = since.get(later, 0.0) + weight * count
            self._item_total_N[item] += weight * count
            self._later_total_N[later] += weight * count
            self._touched.add(item)

    def touched(self) -> Ints:
        """Return the rows with pairs since `settle`, or of new items: ascending."""
        return np.array(sorted(self._touched), dtype=np.int64)

    def settle(self) -> None:
        """Forget which rows were touched."""
        self._touched.clear()

    def touch(self, rows: Sequence[int]) -> None:
        """Have `touched` name these rows too."""
        self._touched.update(rows)

    def evidence(self, history: Sequence[int]) -> Counts:
        """Return the evidence of counts for every item, (N,): 0 for one never counted with it."""
        settings = self.settings
        later, weight = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for age, item in enumerate(history[: -settings.recent - 1 : -1]):
            later_P, count_P = self._pairs(item)
            total = (self._item_total_N[item] + settings.shrink) ** settings.item_power
            later.append(later_P)
            weight.append(count_P * (settings.decay**age / total))
        later_P, weight_P = np.concatenate(later), np.concatenate(weight)
        total_P = (self._later_total_N[later_P] + settings.shrink) ** settings.later_power
        return sum_at(later_P, weight_P / total_P, len(self))

    def neighbours_of(self, rows: Sequence[int] | Ints) -> NeighbourLists:
        """Return the neighbours of these distinct rows, as `Neighbours.of` finds them."""
        settings, num_items = self.settings, len(self)
        row_R = np.sort(np.asarray(rows, dtype=np.int64))
        at_P, later_P, count_P = self._pairs_of(row_R)
        item_R = (self._item_total_N[row_R] + settings.shrink) ** settings.item_power
        later_N = (self._later_total_N + settings.shrink) ** settings.later_power
        weight_P = count_P / (item_R[at_P] * later_N[later_P])
        kept = largest_of_each(at_P, weight_P, settings.num_neighbours)
        more = SimilarItems(self.similar.row_NS[row_R], self.similar.cosine_NS[row_R]).pairs(
            weight=settings.similar_weight, power=settings.similar_power
        )
        pair_P, weight_P = sum_equal(
            np.concatenate(
                [at_P[kept] * num_items + later_P[kept], more.item_P * num_items + more.other_P]
            ),
            np.concatenate([weight_P[kept], more.weight_P]),
        )
        at_P, other_P = np.divmod(pair_P, num_items)
        kept = largest_of_each(at_P, weight_P, settings.num_neighbours)
        return NeighbourLists(
            row_R,
            np.searchsorted(at_P[kept], np.arange(len(row_R) + 1)).astype(np.int64),
            other_P[kept].astype(np.int32),
            weight_P[kept].astype(np.float32),
        )

    def neighbours(self) -> Neighbours:
        """Return the neighbours of all rows."""
        lists = self.neighbours_of(np.arange(len(self)))
        return Neighbours(self.settings, lists.first, lists.neighbour_P, lists.weight_P)

    def memory(self) -> Memory:
        """Return all counts as the memory of a release."""
        item_P, later_P, count_P = self._pairs_of(np.arange(len(self)))
        pair_P = item_P * len(self) + later_P
        totals = self._item_total_N.copy(), self._later_total_N.copy()
        counts = PairCounts(len(self), pair_P, count_P, *totals)
        return Memory(counts, self.similar, self.settings)

    def grow(self, row_of_old: Ints, similar: SimilarItems) -> "LiveCounts":
        """Return the counts over the rows of a grown catalog, and touch its new rows.

        Args:
            row_of_old: the new row of each old one; -1 for a withdrawn item, whose pairs go. The
                totals of other items keep their share of it.
            similar: items of the new rows.
        """
        num_items = len(similar)
        table = _moved(self._table, row_of_old, num_items)
        grown = LiveCounts(table, similar, self.settings)
        for total_N, old_N in (
            (grown._item_total_N, self._item_total_N),
            (grown._later_total_N, self._later_total_N),
        ):
            total_N[:] = 0
            total_N[row_of_old[row_of_old >= 0]] = old_N[row_of_old >= 0]
        place = row_of_old.tolist()
        for item, since in self._since.items():
            if place[item] >= 0:
                moved = {place[later]: count for later, count in since.items() if place[later] >= 0}
                grown._since[place[item]] = moved
        grown._touched = {place[row] for row in self._touched if place[row] >= 0}
        grown._touched |= set(range(num_items)) - set(place)
        return grown

    def arrays(self) -> Arrays:
        """Return the whole state as arrays, for `from_arrays`."""
        since = [(item, *pair) for item, later in self._since.items() for pair in later.items()]
        columns = list(zip(*since, strict=True)) if since else [(), (), ()]
        return {
            "pair": self._table.pair_P,
            "count": self._table.count_P,
            "item_total": self._item_total_N.copy(),
            "later_total": self._later_total_N.copy(),
            "similar": self.similar.row_NS,
            "cosine": self.similar.cosine_NS,
            "since_item": np.array(columns[0], dtype=np.int64),
            "since_later": np.array(columns[1], dtype=np.int64),
            "since_count": np.array(columns[2], dtype=np.float64),
            "touched": self.touched(),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], settings: MemorySettings
    ) -> "LiveCounts":
        """Restore the state that `arrays` returned, bit for bit."""
        totals = arrays["item_total"], arrays["later_total"]
        table = PairCounts(len(totals[0]), arrays["pair"], arrays["count"], *totals)
        counts = cls(table, SimilarItems(arrays["similar"], arrays["cosine"]), settings)
        columns = (arrays[f"since_{name}"].tolist() for name in ("item", "later", "count"))
        for item, later, count in zip(*columns, strict=True):
            counts._since.setdefault(item, {})[later] = count
        counts._touched = set(arrays["touched"].tolist())
        return counts

    def _pairs(self, item: int) -> tuple[Ints, Counts]:
        """Return later items and counts of an item's pairs; a pair may occur twice."""
        near = slice(self._first[item], self._first[item + 1])
        later_P, count_P = self._table.pair_P[near] % len(self), self._table.count_P[near]
        if since := self._since.get(item):
            later_P = np.append(later_P, np.fromiter(since, np.int64, len(since)))
            count_P = np.append(count_P, np.fromiter(since.values(), np.float64, len(since)))
        return later_P, count_P

    def _pairs_of(self, row_R: Ints) -> Pairs:
        """Return the pairs of rows, each once and sorted, with the place of the row for the row."""
        at_T, place_T = expand_ranges(self._first, row_R)
        pair_P = at_T * len(self) + self._table.pair_P[place_T] % len(self)
        since = [
            (at * len(self) + later, count)
            for at, row in enumerate(row_R.tolist())
            for later, count in self._since.get(row, {}).items()
        ]
        pair_S = np.array([pair for pair, _ in since], dtype=np.int64)
        count_S = np.array([count for _, count in since], dtype=np.float64)
        pair_P, count_P = sum_equal(
            np.concatenate([pair_P, pair_S]),
            np.concatenate([self._table.count_P[place_T], count_S]),
        )
        return Pairs(*np.divmod(pair_P, len(self)), count_P)


def _moved(table: PairCounts, row_of_old: Ints, num_items: int) -> PairCounts:
    """Return a table over other rows, without the pairs of withdrawn items; totals are not set."""
    item_P, later_P = row_of_old[table.items()], row_of_old[table.later_items()]
    is_kept_P = (item_P >= 0) & (later_P >= 0)
    pair_P = item_P[is_kept_P] * num_items + later_P[is_kept_P]
    order = np.argsort(pair_P, kind="stable")
    none_N = np.zeros(num_items)
    return PairCounts(num_items, pair_P[order], table.count_P[is_kept_P][order], none_N, none_N)
