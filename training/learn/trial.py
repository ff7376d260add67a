"""Test, then train: ranks of the next items of users by an old model and by a candidate.

Both rank the whole catalog with the same memory, outside the history. So a difference is one of
weights. Knows nothing of logs or files.
"""

# Q = questions

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.online.finish import Finisher
from models.online.history_cache import window_start
from models.online.memory.neighbours import Neighbours
from models.online.recommender import OnlineRecommender
from models.online.torch_runtime import fastest_searcher

TOP = 10
_Z95 = 1.96


class Question(NamedTuple):
    """A history and the item that came next, as catalog rows."""

    history: tuple[int, ...]  # oldest first
    target: int


class Answers(NamedTuple):
    """Answers of one model."""

    is_hit: list[bool]  # by question: the target is among the first ten
    num_young: int  # of all recommended items, those that are young
    num_found: int  # recommended items
    median_ms: float  # of one finish


def answer(
    recommender: OnlineRecommender,
    catalog: Catalog,
    neighbours: Neighbours | None,
    questions: Sequence[Question],
    *,
    is_young: Callable[[int], bool] = lambda row: False,
) -> Answers:
    """Rank the whole catalog for each question."""
    finisher = Finisher(fastest_searcher(recommender.eval()), catalog, neighbours)
    everything = Candidates(catalog.trie)
    hits, num_young, num_found, seconds = [], 0, 0, []
    for history, target in questions:
        recent = history[window_start(len(history), finisher.window) :]
        started = time.perf_counter()
        found = finisher.finish(
            finisher.encode(recent), everything, k=TOP, exclude=set(history) - {target}
        )
        seconds.append(time.perf_counter() - started)
        hits.append(any(item.row == target for item in found))
        num_young += sum(is_young(item.row) for item in found)
        num_found += len(found)
    return Answers(hits, num_young, num_found, 1000 * float(np.median(seconds or [0.0])))


class Paired(NamedTuple):
    """Difference of a figure, candidate minus old, over the same questions."""

    num: int
    mean: float
    half_width: float  # of the 95% interval

    @classmethod
    def of(cls, candidate: Sequence[float], old: Sequence[float]) -> "Paired":
        difference_Q = np.array(candidate, dtype=np.float64) - np.array(old, dtype=np.float64)
        if not len(difference_Q):
            return cls(0, 0.0, 0.0)
        deviation = float(difference_Q.std())
        half_width = _Z95 * deviation / math.sqrt(len(difference_Q))
        return cls(len(difference_Q), float(difference_Q.mean()), half_width)

    def is_below(self, margin: float) -> bool:
        """Tell if the whole interval is below -margin."""
        return self.num > 0 and self.mean + self.half_width < -margin

    def __str__(self) -> str:
        return f"{self.mean:+.4f} +-{self.half_width:.4f} of {self.num}"
