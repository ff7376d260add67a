"""Choice of a contender's setting: each is tried for a while, the best one is trained on.

Everything is kept in a work folder, so that the same command goes on after a stop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.table1.budgeted_fit import Budget, train
from bench.table1.contender import Contender, Ranks, rank_cases
from bench.table1.padded_rows import World
from bench.table1.trial_folder import Progress, TrialFolder
from bench.table1.tried_settings import Entry, Setting

Build = Callable[[World, Setting], Contender]


@dataclass(frozen=True)
class Standing:
    """Ranks and figures that a contender has reached within the budget."""

    ranks: Ranks  # of the test split
    facts: dict[str, Any]  # for the results file


def run_entry(name: str, entry: Entry, world: World, work: Path, budget: Budget) -> Standing:
    """Try all settings of an entry, train the best one on, and rank the test split."""
    trials = [_Trial(name, entry, world, work, at) for at in range(len(entry.settings))]
    tried = [trial.train(budget, budget.try_minutes) for trial in trials]
    at = int(np.argmax([progress.ndcg for progress in tried]))
    tried[at] = trials[at].train(budget, budget.train_minutes)
    contender = trials[at].best()
    return Standing(
        trials[at].rank_test(contender, tried[at]),
        {
            "source": entry.source,
            "parameters": sum(weight.numel() for weight in contender.net.parameters()),
            "chosen": at,
            "tried": [_describe(progress) for progress in tried],
        },
    )


def _describe(progress: Progress) -> dict[str, Any]:
    return {
        "setting": progress.setting,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "cpu_seconds": round(progress.seconds),
        "valid_recall@10": progress.recall,
        "valid_ndcg@10": progress.ndcg,
        "stopped_rising": progress.is_finished,
    }


class _Trial:
    """One setting of an entry in its folder."""

    def __init__(self, name: str, entry: Entry, world: World, work: Path, at: int) -> None:
        self._name, self._entry, self._world = f"{name}/{at}", entry, world
        self._setting = entry.settings[at]
        self._folder = TrialFolder(work / name / str(at))

    def train(self, budget: Budget, minutes: float) -> Progress:
        """Train up to `minutes` of CPU time in all; at once if they are spent."""
        progress = self._folder.read(self._setting)
        if progress.is_finished or progress.seconds >= 60 * minutes:
            return progress
        contender = self._entry.build(self._world, self._setting)
        return train(
            self._name, contender, self._world, self._folder, progress, budget, minutes=minutes
        )

    def best(self) -> Contender:
        """Return the contender with the weights of its best epoch."""
        contender = self._entry.build(self._world, self._setting)
        self._folder.load_best(contender.net)
        return contender

    def rank_test(self, contender: Contender, progress: Progress) -> Ranks:
        """Rank the test split, or read the ranks that this epoch's weights gave before."""
        file = self._folder.path / f"test_ranks_{progress.best_epoch}.npz"
        if not file.is_file():
            found = rank_cases(contender, self._world, self._world.test)
            np.savez(file, rank_U=found.rank_U, seconds=found.seconds)
        with np.load(file) as kept:
            return Ranks(kept["rank_U"], float(kept["seconds"]))


def find_standings(
    names: Sequence[str],
    entries: dict[str, Entry],
    world: World,
    work: Path,
    budget: Budget,
) -> dict[str, Standing]:
    """Return the standings of contenders that are trained already, without training any."""
    found = {}
    for name in names:
        if _is_trained(name, entries[name], work, budget):
            found[name] = run_entry(name, entries[name], world, work, budget)
    return found


def _is_trained(name: str, entry: Entry, work: Path, budget: Budget) -> bool:
    tried = [
        TrialFolder(work / name / str(at)).read(setting)
        for at, setting in enumerate(entry.settings)
    ]
    best = tried[int(np.argmax([progress.ndcg for progress in tried]))]
    return all(_is_spent(each, budget.try_minutes) for each in tried) and _is_spent(
        best, budget.train_minutes
    )


def _is_spent(progress: Progress, minutes: float) -> bool:
    return progress.is_finished or progress.seconds >= 60 * minutes
