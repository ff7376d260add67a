"""Item-item counts: a table row too simple to lose, which learns nothing but how often.

Two items are counted once for each history in which they are near each other. Knows catalog rows;
knows nothing of models.
"""

# N = catalog rows, E = counted pairs of items, P = pairs before they are summed, M = history items

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case
from bench.quality.ranking.plain_rows import rank_unseen

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CountSettings:
    """Numbers of the counts, those of the memory: tuned on the validation users of Beauty."""

    window: int = 10  # later items that an item is counted with, at weight 1 / distance
    backwards: float = 0.5  # share of the weight that the pair has in the other direction
    shrink: float = 20.0  # added to the sums by which a count is divided
    later_power: float = 0.3  # of the sum of the item that gets the evidence; the other has 0.5
    last: int = 5  # newest items of a history that give evidence
    decay: float = 0.7  # weight of an item of the history, by the one after it


class ItemCounts:
    """Directed counts from an item to the items near it in histories; they grow event by event."""

    def __init__(
        self,
        histories: Sequence[Sequence[int]],
        num_items: int,
        settings: CountSettings | None = None,
    ) -> None:
        """Count all pairs of `histories`, each oldest first."""
        self.settings = settings or CountSettings()
        self._num_items = num_items
        pairs, weight_P = _near_pairs(histories, num_items, self.settings)
        pairs_E, at_P = np.unique(pairs, return_inverse=True)
        self._weight_E = _sum_by(at_P, weight_P, len(pairs_E))
        from_E, self._to_E = np.divmod(pairs_E, num_items)
        self._start_N1 = np.searchsorted(from_E, np.arange(num_items + 1))
        self._from_sum_N = _sum_by(from_E, self._weight_E, num_items)
        self._to_sum_N = _sum_by(self._to_E, self._weight_E, num_items)
        self._added: dict[int, list[tuple[int, float]]] = defaultdict(list)  # from -> (to, weight)

    def learn(self, history: Sequence[int], *, num_new: int) -> None:
        """Count the last `num_new` items of a history with the items before them."""
        for at in range(len(history) - num_new, len(history)):
            for distance in range(1, min(self.settings.window, at) + 1):
                self._add(history[at - distance], history[at], 1 / distance)
                self._add(history[at], history[at - distance], self.settings.backwards / distance)

    def evidence(self, history: Sequence[int]) -> Floats:
        """Return the evidence for every item, (N,): 0 for an item never counted with the last ones.

        Args:
            history: catalog rows, oldest first.
        """
        settings = self.settings
        to, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for age, row in enumerate(reversed(history[-settings.last :])):
            scale = settings.decay**age / np.sqrt(self._from_sum_N[row] + settings.shrink)
            near = slice(self._start_N1[row], self._start_N1[row + 1])
            to.append(self._to_E[near])
            weights.append(self._weight_E[near] * scale)
            if added := self._added.get(row):
                to.append(np.array([other for other, _ in added], dtype=np.int64))
                weights.append(np.array([weight for _, weight in added]) * scale)
        total_N = _sum_by(np.concatenate(to), np.concatenate(weights), self._num_items)
        scaled_N: Floats = total_N / (self._to_sum_N + settings.shrink) ** settings.later_power
        return scaled_N

    def _add(self, row: int, other: int, weight: float) -> None:
        self._added[row].append((other, weight))
        self._from_sum_N[row] += weight
        self._to_sum_N[other] += weight


def _near_pairs(
    histories: Sequence[Sequence[int]], num_items: int, settings: CountSettings
) -> tuple[NDArray[np.int64], Floats]:
    """Return from * N + to of every pair in both directions, and its weight: (P,), (P,)."""
    items_M = np.array([row for history in histories for row in history], dtype=np.int64)
    user_M = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    pairs, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for distance in range(1, settings.window + 1):
        is_same = user_M[:-distance] == user_M[distance:]
        one, other = items_M[:-distance][is_same], items_M[distance:][is_same]
        pairs += [one * num_items + other, other * num_items + one]
        weights.append(np.full(len(one), 1 / distance))
        weights.append(np.full(len(one), settings.backwards / distance))
    return np.concatenate(pairs), np.concatenate(weights)


def _sum_by(at: NDArray[np.int64], weights: Floats, num: int) -> Floats:
    """Sum the weights at each of `num` places; without any weight numpy would return integers."""
    return np.bincount(at, weights, num).astype(np.float64)


class CountsRow:
    """Ranks by evidence of the counts; ties, and so items without evidence, by popularity."""

    def __init__(self, counts: ItemCounts, popularity_N: NDArray[np.int64]) -> None:
        self._counts, self._popularity_N = counts, popularity_N

    def rank(self, case: Case) -> float:
        evidence_N = self._counts.evidence(case.history.rows)
        return rank_unseen(evidence_N, case, tie_N=self._popularity_N)
