"""Arms of the time split: popularity and counts, frozen or learning, and the online model.

An arm ranks, a learner changes the state behind arms. Knows user days; knows nothing of results.
"""

# N = items of the data set

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.quality_rows import CUTOFFS
from bench.quality.ranking.rank_metrics import rank_targets
from bench.quality.timeline.user_days import TimeSplit, UserDay
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.errors import ReleaseMismatch
from models.online.finish import Finisher
from models.online.history_cache import window_start
from models.online.memory.live_counts import LiveCounts
from models.online.memory.memory_settings import MemorySettings
from models.release.release import Release
from models.release.searchers import load_finisher

# First guesses, chosen on no split. With a shrinkage of 5 few events of a new item count too much.
LIVE_COUNTS = MemorySettings(window=5, recent=10, later_power=0.5)


class Arm(Protocol):
    """Predicts a user's day from the state before it."""

    def rank(self, day: UserDay) -> list[float]:
        """Return the rank of each of `day.targets`; infinity for a target that is not ranked."""


class Learner(Protocol):
    """State behind one or more arms that grows with events."""

    def learn(self, day: UserDay) -> None: ...


class CountState:
    """Counts and popularity of the events learnt so far."""

    def __init__(self, split: TimeSplit) -> None:
        self.counts = LiveCounts.of_histories(split.learnt, len(split.item_ids), LIVE_COUNTS)
        self.popularity_N = split.times_learnt()

    def learn(self, day: UserDay) -> None:
        rows = (*day.history, *day.items)
        for at in range(len(day.history), len(rows)):
            self.counts.add(rows[:at], rows[at])
        np.add.at(self.popularity_N, list(day.items), 1)


class PopularityArm:
    """Ranks by the number of events learnt."""

    def __init__(self, state: CountState) -> None:
        self._state = state

    def rank(self, day: UserDay) -> list[float]:
        popularity_N = self._state.popularity_N
        return rank_unseen(popularity_N.astype(np.float64), day, popularity_N)


class CountsArm:
    """Ranks by evidence of the history, ties by popularity."""

    def __init__(self, state: CountState, *, is_fresh: bool) -> None:
        """Rank by the whole history if `is_fresh`, otherwise by the part up to the split."""
        self._state, self._is_fresh = state, is_fresh

    def rank(self, day: UserDay) -> list[float]:
        evidence_N = self._state.counts.evidence(_visible(day, is_fresh=self._is_fresh))
        return rank_unseen(evidence_N, day, self._state.popularity_N)


class Items:
    """Rows of one catalog for the items of the data set, both ways."""

    def __init__(self, catalog: Catalog, item_ids: Sequence[str]) -> None:
        self.catalog = catalog
        self.whole = Candidates(catalog.trie)
        self._row_of = [catalog.row(item_id) for item_id in item_ids]
        known = [(row, at) for at, row in enumerate(self._row_of) if row is not None]
        self.item_of_N = np.full(len(catalog), -1, dtype=np.int64)
        for row, at in known:
            self.item_of_N[row] = at

    def rows(self, items: Sequence[int]) -> list[int]:
        """Return the rows of the items that the catalog holds."""
        return [row for row in self.places(items) if row is not None]

    def places(self, items: Sequence[int]) -> list[int | None]:
        """Return the row of each item; None where the catalog does not hold it."""
        return [self._row_of[item] for item in items]


class OnlineArm:
    """Ranks by the finish over the whole catalog of a release that was trained up to the split."""

    def __init__(
        self, finisher: Finisher, catalog: Catalog, item_ids: Sequence[str], *, is_fresh: bool
    ) -> None:
        self._finisher, self._items = finisher, Items(catalog, item_ids)
        self._is_fresh = is_fresh

    def rank(self, day: UserDay) -> list[float]:
        rows = self._items.rows(_visible(day, is_fresh=self._is_fresh))
        return rank_finished(self._finisher, self._items, rows, day)


def online_arms(release: Release, split: TimeSplit) -> dict[str, Arm]:
    """Return the arms of a release's online model, with a frozen and with a fresh history.

    Raises ReleaseMismatch for a release that was trained on events after the split.
    """
    learnt = dict(zip(split.item_ids, split.times_learnt().tolist(), strict=True))
    for item_id, times in zip(
        release.catalog.item_ids, release.catalog.popularity.tolist(), strict=True
    ):
        if times > learnt.get(item_id, 0):
            raise ReleaseMismatch(
                f"{release.directory}: trained {times} times on item {item_id!r}, expected at most "
                f"{learnt.get(item_id, 0)}, its events up to day {split.last_day}"
            )
    finisher = load_finisher(release)
    return {
        name: OnlineArm(finisher, release.catalog, split.item_ids, is_fresh=is_fresh)
        for name, is_fresh in (("frozen", False), ("history_only", True))
    }


def _visible(day: UserDay, *, is_fresh: bool) -> tuple[int, ...]:
    return day.history if is_fresh else day.history[: day.num_old]


def rank_finished(
    finisher: Finisher, items: Items, rows: Sequence[int], day: UserDay
) -> list[float]:
    """Rank the targets of a day among the first items of a finish over the whole catalog."""
    state = finisher.encode(rows[window_start(len(rows), finisher.window) :])
    found = finisher.finish(state, items.whole, k=max(CUTOFFS), exclude=items.rows(day.history))
    place = {item.row: at + 1.0 for at, item in enumerate(found)}
    targets = items.places(day.targets)
    return [np.inf if row is None else place.get(row, np.inf) for row in targets]


def rank_unseen(
    scores_N: NDArray[np.float64], day: UserDay, tie_N: NDArray[np.int64]
) -> list[float]:
    """Rank the day's targets among the items outside the history. Changes `scores_N`."""
    scores_N[list(day.history)] = -np.inf
    targets = np.array(day.targets, dtype=np.int64)
    scores_BN = np.broadcast_to(scores_N, (len(targets), len(scores_N)))
    ranks: list[float] = rank_targets(scores_BN, targets, tie_N=tie_N).tolist()
    return ranks
