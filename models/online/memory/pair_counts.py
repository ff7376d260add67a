"""Counts of item pairs: how often one item comes soon after another, in the histories of users.

Counts only add up: the counts of two sets of events are the sum of their counts, and one new event
adds the few pairs of `pairs_of_event`. Items are catalog rows. Knows nothing of models or SIDs.
"""

# N = catalog rows, P = pairs, E = events of all histories, one after the other

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.online.memory.memory_settings import MemorySettings

Ints = NDArray[np.int64]
Counts = NDArray[np.float64]


class Pairs(NamedTuple):
    """Pairs of items, each with its count; a pair may occur several times."""

    item_P: Ints
    later_P: Ints
    count_P: Counts


def pairs_of_event(history: Sequence[int], row: int, settings: MemorySettings) -> Pairs:
    """Return the pairs that one new event adds.

    Args:
        history: catalog rows before the event, oldest first.
        row: the item of the event.
    """
    before_D = np.array(history[-settings.window :], dtype=np.int64)[::-1]  # newest first
    row_D = np.full(len(before_D), row, dtype=np.int64)
    return _both_ways(before_D, row_D, 1 / np.arange(1.0, len(before_D) + 1), settings)


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counted pairs, each once and sorted, and the totals of all pairs ever counted."""

    num_items: int
    pair_P: Ints  # item * num_items + later item, ascending
    count_P: Counts
    item_total_N: Counts  # of pairs with this item first
    later_total_N: Counts  # of pairs with this item second

    @classmethod
    def of_pairs(cls, pairs: Pairs, num_items: int) -> "PairCounts":
        pair_P, count_P = sum_equal(pairs.item_P * num_items + pairs.later_P, pairs.count_P)
        return cls(
            num_items,
            pair_P,
            count_P,
            sum_at(pairs.item_P, pairs.count_P, num_items),
            sum_at(pairs.later_P, pairs.count_P, num_items),
        )

    @classmethod
    def of_histories(
        cls,
        histories: Sequence[Sequence[int]],
        num_items: int,
        settings: MemorySettings,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> "PairCounts":
        """Count whole histories, one distance at a time: equal to adding event after event.

        weights: of the events of each history; a pair counts as often as its later event weighs.
        None: all weigh 1.
        """
        lengths = [len(history) for history in histories]
        row_E = np.fromiter((row for history in histories for row in history), np.int64)
        owner_E = np.repeat(np.arange(len(histories)), lengths)
        weight_E = None
        if weights is not None:
            weight_E = np.fromiter((each for of_user in weights for each in of_user), np.float64)
        none = np.empty(0, dtype=np.int64)
        counted = cls.of_pairs(Pairs(none, none, none.astype(np.float64)), num_items)
        for distance in range(1, settings.window + 1):
            is_pair_E = owner_E[:-distance] == owner_E[distance:]
            item_P, later_P = row_E[:-distance][is_pair_E], row_E[distance:][is_pair_E]
            count_P = np.full(len(item_P), 1 / distance)
            if weight_E is not None:
                count_P *= weight_E[distance:][is_pair_E]
                item_P, later_P, count_P = (
                    column_P[count_P > 0] for column_P in (item_P, later_P, count_P)
                )
            counted += cls.of_pairs(_both_ways(item_P, later_P, count_P, settings), num_items)
        return counted

    def __add__(self, other: "PairCounts") -> "PairCounts":
        if self.num_items != other.num_items:
            raise ValueError(f"counts over {self.num_items} and {other.num_items} items")
        pair_P, count_P = sum_equal(
            np.concatenate([self.pair_P, other.pair_P]),
            np.concatenate([self.count_P, other.count_P]),
        )
        return PairCounts(
            self.num_items,
            pair_P,
            count_P,
            self.item_total_N + other.item_total_N,
            self.later_total_N + other.later_total_N,
        )

    def items(self) -> Ints:
        """Return the item of each pair: (P,)."""
        return self.pair_P // self.num_items

    def later_items(self) -> Ints:
        """Return the later item of each pair: (P,)."""
        return self.pair_P % self.num_items

    def weights(self, settings: MemorySettings) -> Counts:
        """Return each count over powers of the totals of its two items, see `MemorySettings`."""
        item_N = (self.item_total_N + settings.shrink) ** settings.item_power
        later_N = (self.later_total_N + settings.shrink) ** settings.later_power
        weight_P: Counts = self.count_P / (item_N[self.items()] * later_N[self.later_items()])
        return weight_P

    def strongest(self, settings: MemorySettings) -> "PairCounts":
        """Keep the pairs with the largest weight of each item. The totals stay."""
        item_P = self.items()
        num_N = np.bincount(item_P, minlength=self.num_items)
        if num_N.max(initial=0) <= settings.num_neighbours and (self.count_P > 0).all():
            return self  # as those of a release
        largest = largest_of_each(item_P, self.weights(settings), settings.num_neighbours)
        kept = np.sort(largest)
        return PairCounts(
            self.num_items,
            self.pair_P[kept],
            self.count_P[kept],
            self.item_total_N,
            self.later_total_N,
        )


def sum_at(place_P: NDArray[np.integer], value_P: Counts, num: int) -> Counts:
    """Sum the values of each of `num` places."""
    return np.bincount(place_P, weights=value_P, minlength=num).astype(np.float64, copy=False)


def sum_equal(pair_P: Ints, count_P: Counts) -> tuple[Ints, Counts]:
    """Sort pairs, and sum the counts of equal ones."""
    distinct, place_P = np.unique(pair_P, return_inverse=True)
    return distinct, sum_at(place_P, count_P, len(distinct))


def largest_of_each(item_P: Ints, weight_P: Counts, num: int) -> Ints:
    """Return the places of the `num` largest weights above 0 of each item.

    Items ascend; the weights of one item descend, and ties go to the first one.
    """
    order = np.lexsort((-weight_P, item_P))
    sorted_P = item_P[order]
    place_P = np.arange(len(order)) - np.searchsorted(sorted_P, sorted_P)
    kept: Ints = order[(place_P < num) & (weight_P[order] > 0)]
    return kept


def _both_ways(item_P: Ints, later_P: Ints, count_P: Counts, settings: MemorySettings) -> Pairs:
    return Pairs(
        np.concatenate([item_P, later_P]),
        np.concatenate([later_P, item_P]),
        np.concatenate([count_P, settings.backward * count_P]),
    )
