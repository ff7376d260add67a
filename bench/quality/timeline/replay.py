"""Replay of the days behind a time split: predict, judge, learn; then means and differences.

Knows arms and ranks. Knows nothing of models or the disk.
"""

# E = judged events

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.paired_differences import Differences
from bench.quality.ranking.rank_metrics import (
    Interval,
    bootstrap_clusters,
    ndcg_at,
    recall_at,
)
from bench.quality.timeline.arms import Arm, Learner
from bench.quality.timeline.user_days import TimeSplit, UserDay

ALL, OFTEN, FEW, NEVER = "all", "5_and_more", "1_to_4", "never"  # times before the split
_OFTEN = 5
METRICS = ("recall@10", "ndcg@10")
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Judged:
    """Ranks of all judged events by all arms."""

    rank_E: Mapping[str, NDArray[np.float64]]  # by arm; infinity for a target that is not ranked
    user_E: NDArray[np.int64]  # number of the event's user
    times_E: NDArray[np.int64]  # how often the target was learnt before the split

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Return the events of each group, (E,)."""
        return {
            ALL: np.ones(len(self.times_E), dtype=bool),
            OFTEN: self.times_E >= _OFTEN,
            FEW: (self.times_E > 0) & (self.times_E < _OFTEN),
            NEVER: self.times_E == 0,
        }


class Timed:
    """A learner, and the CPU time that its learning took."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.cpu_s = 0.0

    def learn(self, day: UserDay) -> None:
        started = time.process_time()
        self._learner.learn(day)
        self.cpu_s += time.process_time() - started


def replay(
    split: TimeSplit,
    arms: Mapping[str, Arm],
    *,
    daily: Sequence[Learner],
    immediate: Sequence[Learner],
    on_progress: Callable[[int], None],
    first_day: int = 0,
) -> Judged:
    """Predict every user's day in order.

    Args:
        first_day: days before it are learnt and not judged.
        daily: learn the events of a day when all its users are judged.
        immediate: learn a user's events of a day when they are judged, before the next user.
        on_progress: gets the number of days done so far.
    """
    ranks: dict[str, list[float]] = {name: [] for name in arms}
    users: list[str] = []
    targets: list[int] = []
    for num_done, days in enumerate(split.days, start=1):
        for day in days:
            if day.targets and day.day >= first_day:
                for name, arm in arms.items():
                    ranks[name] += arm.rank(day)
                users += [day.user_id] * len(day.targets)
                targets += day.targets
            for learner in immediate:
                learner.learn(day)
        for learner in daily:
            for day in days:
                learner.learn(day)
        on_progress(num_done)
    user_E = np.unique(np.array(users, dtype=np.str_), return_inverse=True)[1]
    times_E = split.times_learnt()[np.array(targets, dtype=np.int64)]
    return Judged({name: np.array(found) for name, found in ranks.items()}, user_E, times_E)


def summarise_arms(
    judged: Judged, compared: Sequence[tuple[str, str]], *, seed: int
) -> tuple[list[Row], Differences]:
    """Return one row per arm, and the differences of the pairs of which both arms are there.

    Means are over events, 95% intervals over resampled users. A metric of a group has the group's
    name behind it: `recall@10_never`. A group without events has no columns.
    """
    rows: dict[str, Row] = {name: {"name": name} for name in judged.rank_E}
    differences: Differences = {}
    for group, is_in_E in judged.groups().items():
        if not is_in_E.any():
            continue
        suffix = "" if group == ALL else f"_{group}"
        for (name, metric), interval in _intervals(judged, is_in_E, compared, seed).items():
            if name in rows:
                rows[name] |= interval.columns(metric + suffix)
            else:
                differences.setdefault(name, {})[metric + suffix] = interval
    return list(rows.values()), differences


def _intervals(
    judged: Judged, is_in_E: NDArray[np.bool_], compared: Sequence[tuple[str, str]], seed: int
) -> dict[tuple[str, str], Interval]:
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name, rank_E in judged.rank_E.items():
        columns[name, "recall@10"] = recall_at(rank_E[is_in_E], 10)
        columns[name, "ndcg@10"] = ndcg_at(rank_E[is_in_E], 10)
    for one, other in compared:
        if {one, other} <= set(judged.rank_E):
            for metric in METRICS:
                difference = columns[one, metric] - columns[other, metric]
                columns[f"{one} minus {other}", metric] = difference
    return bootstrap_clusters(columns, judged.user_E[is_in_E], seed=seed)
