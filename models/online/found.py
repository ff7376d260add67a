"""Results of a search over a tree of SIDs, best first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Logprobs = NDArray[np.float64]


class Found(NamedTuple):
    """Results of a search, best first."""

    entry: Ints  # catalog rows; trie nodes where prefixes are searched
    logprob: Logprobs
    score: Logprobs  # log-probability and bonus

    def join(self, others: "Found") -> "Found":
        if not len(self.entry):
            return others
        return Found(
            np.concatenate([self.entry, others.entry]),
            np.concatenate([self.logprob, others.logprob]),
            np.concatenate([self.score, others.score]),
        )

    def best(self, k: int) -> "Found":
        """Return the k best, and all others that tie with the last of them."""
        return self.take(self.score >= kth_best(self.score, k))

    def sorted(self) -> "Found":
        """Sort best first; ties by entry."""
        return self.take(np.lexsort((self.entry, -self.score)))

    def first(self, k: int) -> "Found":
        return self.take(slice(k))

    def take(self, chosen: slice | Ints | NDArray[np.bool_]) -> "Found":
        return Found(self.entry[chosen], self.logprob[chosen], self.score[chosen])


class Searched(NamedTuple):
    """Results of a search, and its cost."""

    found: Found
    num_opened_L: Ints  # opened nodes, by depth
    num_scored: int  # children of all opened nodes
    # By result, the catalog rows of the history that gave it most evidence, most first; without
    # entries where no memory was asked.
    reasons: Sequence[tuple[int, ...]] = ()

    @classmethod
    def nothing(cls, levels: int) -> "Searched":
        """Return the empty result, for k = 0."""
        return cls(nothing_found(), np.zeros(levels, dtype=np.int64), 0)


def nothing_found() -> Found:
    return Found(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


def kth_best(logprob: Logprobs, k: int) -> float:
    """Return the k-th largest value, or -inf while there are fewer than k."""
    num = len(logprob)
    return float(np.partition(logprob, num - k)[num - k]) if num >= k else -np.inf
