"""Arms of the time split that learn on: live counts beside frozen, daily or refit weights.

The catalog of a day holds the items that were fed on it, so that every arm can name them. Weights
are those of the day before; the memory goes on from event to event. Knows live folders by
`LivePast`; knows nothing of results.
"""

# N = catalog rows, I = items of the data set, R = rows with evidence

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.quality.timeline.arms import Arm, Items, rank_finished, rank_unseen
from bench.quality.timeline.live_past import LivePast
from bench.quality.timeline.user_days import TimeSplit, UserDay
from models.errors import InvalidRelease, ReleaseMismatch
from models.online.finish import Finisher, Searcher
from models.online.memory.live_counts import LiveCounts
from models.online.memory.memory import Memory
from models.online.memory.neighbours import Neighbours
from models.release.live import LiveRelease
from models.release.release import Release
from models.release.searchers import load_searcher

Floats = NDArray[np.float64]


class LiveState:
    """Catalog and memory of the day that is judged; a learner of the replay."""

    def __init__(self, past: LivePast, split: TimeSplit) -> None:
        """Begin with the memory of the first base. Raises InvalidRelease if it has none."""
        self._walk, self._item_ids = past.walk(), split.item_ids
        self._day = -1
        self.popularity_I = split.times_learnt()
        first = self._walk.left_by(0).release
        self.items = Items(first.catalog, split.item_ids)
        self.counts = LiveCounts.of_memory(memory_of(first))

    def enter(self, day: int) -> None:
        """Take over the catalog of a day, if it is a later one."""
        if day == self._day:
            return
        self._day = day
        release = self._walk.left_by(day).release
        if release.catalog.item_ids == self.items.catalog.item_ids:
            return
        rows = [release.catalog.row(item_id) for item_id in self.items.catalog.item_ids]
        row_of_old = np.array([-1 if row is None else row for row in rows], dtype=np.int64)
        self.counts = self.counts.grow(row_of_old, memory_of(release).similar)
        self.items = Items(release.catalog, self._item_ids)

    def learn(self, day: UserDay) -> None:
        self.enter(day.day)
        rows = (*day.history, *day.items)
        for at in range(len(day.history), len(rows)):
            (row,) = self.items.places(rows[at : at + 1])
            if row is not None:
                self.counts.add(self.items.rows(rows[:at]), row)
        np.add.at(self.popularity_I, list(day.items), 1)

    def neighbours(self, rows: Sequence[int]) -> Neighbours:
        """Return the neighbours of the newest of these rows; other rows have none."""
        recent = sorted(set(rows[-self.counts.settings.recent :]))
        lists = self.counts.neighbours_of(recent)
        num_N = np.zeros(len(self.counts), dtype=np.int64)
        num_N[lists.row_R] = np.diff(lists.first)
        first = np.concatenate([[0], np.cumsum(num_N)])
        return Neighbours(self.counts.settings, first, lists.neighbour_P, lists.weight_P)


class MemoryArm:
    """Ranks by the evidence of the live memory, counts and texts, ties by popularity."""

    def __init__(self, state: LiveState) -> None:
        self._state = state

    def rank(self, day: UserDay) -> list[float]:
        state = self._state
        state.enter(day.day)
        rows = state.items.rows(day.history)
        scores_I = np.zeros(len(state.popularity_I))
        if rows:
            recent = rows[: -state.counts.settings.recent - 1 : -1]
            row_R, evidence_R = state.neighbours(rows).evidence(np.array(recent))
            scores_I[state.items.item_of_N[row_R]] = evidence_R
        return rank_unseen(scores_I, day, state.popularity_I)


class Weights(Protocol):
    """Weights that an arm has on a day."""

    def searcher(self, day: int) -> Searcher:
        """Return the model of the state before a day; the same object while it is the same."""


class FrozenWeights:
    """The weights of one release, for ever."""

    def __init__(self, release: Release) -> None:
        self._searcher = load_searcher(release)

    def searcher(self, day: int) -> Searcher:
        return self._searcher


class DailyWeights:
    """The weights that a learner left behind the day before."""

    def __init__(self, past: LivePast) -> None:
        self._walk = past.walk()
        self._live: LiveRelease | None = None
        self._searcher: Searcher | None = None

    def searcher(self, day: int) -> Searcher:
        live = self._walk.left_by(day - 1)
        if self._searcher is None or live is not self._live:
            self._live = live
            self._searcher = load_searcher(live.release, weights=live.weights)
        return self._searcher


class RefitWeights:
    """The weights of the last release that was trained on all days before."""

    def __init__(self, releases: Mapping[int, Release]) -> None:
        """releases: by the last day that each has learnt."""
        self._releases = dict(sorted(releases.items()))
        self._searchers: dict[int, Searcher] = {}

    def searcher(self, day: int) -> Searcher:
        last = max(learnt for learnt in self._releases if learnt < day)
        if last not in self._searchers:
            self._searchers[last] = load_searcher(self._releases[last])
        return self._searchers[last]


class LiveArm:
    """Ranks by the finish over the day's whole catalog, with the live memory."""

    def __init__(self, state: LiveState, weights: Weights) -> None:
        self._state, self._weights = state, weights
        self._finisher: Finisher | None = None
        self._made_of: tuple[Items, Searcher] | None = None

    def rank(self, day: UserDay) -> list[float]:
        state = self._state
        state.enter(day.day)
        rows = state.items.rows(day.history)
        finisher = self._finish_with(self._weights.searcher(day.day), state.neighbours(rows))
        return rank_finished(finisher, state.items, rows, day)

    def _finish_with(self, searcher: Searcher, neighbours: Neighbours) -> Finisher:
        made_of = self._state.items, searcher
        if self._finisher is None or self._made_of != made_of:
            self._finisher = Finisher(searcher, self._state.items.catalog, neighbours)
            self._made_of = made_of
        return self._finisher.remembering(neighbours)


class DailyArm:
    """Ranks by the version, counts and weights, that the day before left behind."""

    def __init__(self, past: LivePast, item_ids: Sequence[str]) -> None:
        self._walk, self._item_ids = past.walk(), item_ids
        self._live: LiveRelease | None = None
        self._items: Items | None = None
        self._finisher: Finisher | None = None

    def rank(self, day: UserDay) -> list[float]:
        live = self._walk.left_by(day.day - 1)
        if self._items is None or self._finisher is None or live is not self._live:
            self._live, self._items = live, Items(live.release.catalog, self._item_ids)
            searcher = load_searcher(live.release, weights=live.weights)
            self._finisher = Finisher(searcher, live.release.catalog, live.neighbours)
        return rank_finished(self._finisher, self._items, self._items.rows(day.history), day)


def learning_arms(
    state: LiveState, past: LivePast, item_ids: Sequence[str], refits: Mapping[int, Path]
) -> dict[str, Arm]:
    """Return the arms that learn on, over one state that the caller lets learn.

    refits: directories of releases, by the last day that each has learnt.

    Raises ReleaseMismatch for a refit release with other SIDs than the first base.
    """
    base = past.walk().left_by(0).release
    arms: dict[str, Arm] = {
        "memory_live": MemoryArm(state),
        "counts_live": LiveArm(state, FrozenWeights(base)),
        "daily": DailyArm(past, item_ids),
        "micro_batch": LiveArm(state, DailyWeights(past)),
    }
    if refits:
        releases = {day: Release.load(directory) for day, directory in refits.items()}
        _check_same_sids(releases, base)
        arms["refit"] = LiveArm(state, RefitWeights({0: base} | releases))
    return arms


def _check_same_sids(releases: Mapping[int, Release], base: Release) -> None:
    for day, release in releases.items():
        if release.space.fingerprint != base.space.fingerprint:
            raise ReleaseMismatch(
                f"{release.directory}: refit of day {day} has other SIDs than {base.directory}"
            )


def memory_of(release: Release) -> Memory:
    """Read the memory of a release. Raises InvalidRelease if it has none."""
    memory = release.load_memory()
    if memory is None:
        raise InvalidRelease(f"{release.directory}: no memory, expected one to learn on")
    return memory
