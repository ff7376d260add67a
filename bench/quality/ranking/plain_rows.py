"""Rows of the quality table that need no reasoner: each ranks the whole catalog.

Knows cases and models. Knows nothing of thoughts, Redis or the disk.
"""

# U = users, N = catalog rows

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case, mask_seen, target_rows
from bench.quality.ranking.prefix_map import PrefixMap
from bench.quality.ranking.quality_rows import CUTOFFS, Outcome
from bench.quality.ranking.rank_metrics import rank_targets
from models.baselines.sasrec import SasRec
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.night.night_items import FADE, NightItems
from models.online.finish import Finisher, KeptHistory, Scored
from models.online.history_cache import window_start
from models.online.memory.tree_memory import NightBonus


class Ranker(Protocol):
    """Ranks the target of a case among all unseen items."""

    def rank(self, case: Case) -> float:
        """Return the rank, 1 is best; infinity for a target that is not ranked."""


def rank_unseen(
    scores_N: NDArray[np.float64], case: Case, *, tie_N: NDArray[np.int64] | None = None
) -> float:
    """Return the target's rank by scores; ties by `tie_N`, then by row. Changes `scores_N`."""
    scores_1N = scores_N[None, :]
    mask_seen(scores_1N, [case])
    return float(rank_targets(scores_1N, target_rows([case]), tie_N=tie_N)[0])


class PopularityRow:
    """Ranks by training interactions, whatever the history."""

    def __init__(self, popularity_N: NDArray[np.int64]) -> None:
        self._popularity_N = popularity_N

    def rank(self, case: Case) -> float:
        return rank_unseen(self._popularity_N.astype(np.float64), case)


class SasRecRow:
    """Ranks by SASRec. A user without a known item gets no ranking."""

    def __init__(self, sasrec: SasRec) -> None:
        self._sasrec = sasrec

    def rank(self, case: Case) -> float:
        if not case.history.rows:
            return np.inf
        scores_N = self._sasrec.score([case.history.rows])[0].numpy().astype(np.float64)
        return rank_unseen(scores_N, case)


class OnlineRow:
    """Ranks by the finish over the whole catalog; infinity beyond the cutoffs.

    Reads as much of a long history as the service and training's validation do.
    """

    def __init__(self, finisher: Finisher, catalog: Catalog) -> None:
        self._finisher, self._whole = finisher, Candidates(catalog.trie)

    def rank(self, case: Case) -> float:
        state = encode_case(self._finisher, case)
        found = self._finisher.finish(state, self._whole, k=max(CUTOFFS), exclude=case.seen)
        return rank_in(found, case)


class NightItemsRow:
    """Ranks by the night's model of items alone; ties, and so all others, by popularity."""

    def __init__(self, night: NightItems, popularity_N: NDArray[np.int64]) -> None:
        self._night, self._popularity_N = night, popularity_N

    def rank(self, case: Case) -> float:
        found = self._night.find(case.seen, num=len(self._popularity_N), exclude=case.seen)
        bonus_N = np.zeros(len(self._popularity_N))
        bonus_N[found.row_R] = found.bonus_R
        return rank_unseen(bonus_N, case, tie_N=self._popularity_N)


class FusedRow:
    """Ranks by the online scores and the night's bonus, over the whole catalog.

    The online model reads the whole history. A night of the day before has not seen the items of
    the target's day, and each of them takes away from its bonus, as in the service.
    """

    def __init__(self, finisher: Finisher, night: NightItems, *, is_day_before: bool) -> None:
        self._finisher, self._night = finisher, night
        self._is_day_before = is_day_before

    def rank(self, case: Case) -> float:
        state, bonus = encode_case(self._finisher, case), self._bonus(case)
        found = self._finisher.finish(
            state, self._finisher.whole, k=max(CUTOFFS), exclude=case.seen, night=bonus
        )
        return rank_in(found, case)

    def _bonus(self, case: Case) -> NightBonus | None:
        known = case.day_before() if self._is_day_before else case
        num_fresh = len(case.seen) - len(known.seen)
        return self._night.find(known.seen, exclude=known.seen).faded(FADE**num_fresh)


def encode_case(finisher: Finisher, case: Case) -> KeptHistory:
    """Encode as much of a case's history as the service does."""
    return finisher.encode(case.seen[window_start(len(case.seen), finisher.window) :])


def rank_in(found: Sequence[Scored], case: Case) -> float:
    """Return the target's rank among the items found; infinity beyond them."""
    ranked = [item.row for item in found]
    return ranked.index(case.target) + 1.0 if case.target in ranked else np.inf


def rank_plain(
    rankers: Mapping[str, Ranker],
    catalog: Catalog,
    cases: Sequence[Case],
    *,
    on_progress: Callable[[int], None],
) -> dict[str, Outcome]:
    """Rank the target of every case by every ranker; a ranker of two names ranks once.

    Args:
        on_progress: gets the number of cases done so far.
    """
    found = {ranker: np.full(len(cases), np.inf) for ranker in rankers.values()}
    seconds = dict.fromkeys(found, 0.0)
    for user, case in enumerate(cases):
        for ranker, rank_U in found.items():
            started = time.perf_counter()
            rank_U[user] = ranker.rank(case)
            seconds[ranker] += time.perf_counter() - started
        on_progress(user + 1)
    everything = PrefixMap(catalog).cover_everything(target_rows(cases))
    return {
        name: Outcome(found[ranker], everything, seconds[ranker])
        for name, ranker in rankers.items()
    }
