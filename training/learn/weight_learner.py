"""Learns weights: an accepted version, and a candidate that has learnt more.

The candidate is tested on a slice before it learns it, then accepted, refused or tested further.
All decisions follow from base release, settings, exams and lessons. Knows nothing of logs, files or
clocks, and shares nothing that changes with those who count: it may run in a thread of its own.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.online.memory.neighbours import Neighbours
from training.learn.candidate import Anchor, Candidate, anchor_knowing
from training.learn.learn_settings import LearnSettings
from training.learn.trial import Paired, Question, answer
from training.learn.trial_gates import failed_gates, is_slow
from training.learn.weight_steps import LearntEvents, learn_events

ACCEPTED, REFUSED, WAITING, NOTHING = "accepted", "refused", "waiting", "nothing"


class Exam(NamedTuple):
    """Questions that the candidate is tested on at the end of a slice."""

    catalog: Catalog
    neighbours: Neighbours  # of the end of the slice before
    questions: Sequence[Question]  # of the slice
    old_questions: Sequence[Question]  # last items of a fixed sample of old users
    young: frozenset[int]  # rows of items that the feed brought


class Lesson(NamedTuple):
    """Events that the candidate learns of a slice."""

    catalog: Catalog
    new: Sequence[LearntEvents]  # empty where nothing is to be learnt
    old: Sequence[LearntEvents]  # histories to repeat
    seed: int  # decides everything random
    unripe: Sequence[NDArray[np.int64]]  # packed prefixes without rows of their own, by depth


@dataclass
class Verdict:
    """Outcome of the test of a candidate at the end of a slice."""

    outcome: str
    on_slices: str = ""  # paired difference of recall@10
    on_old: str = ""
    recall_on_slices: float | None = None  # of the candidate
    failed: list[str] = field(default_factory=list)  # gates
    slow: str = ""  # the gate of latency, which changes no state

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ("", [], None)}


@dataclass
class Pool:
    """Answers to the slices that the candidate was tested on, since the last decision."""

    candidate: list[bool] = field(default_factory=list)  # the target was found
    accepted: list[bool] = field(default_factory=list)
    num_slices: int = 0


class WeightLearner:
    """The accepted weights and the candidate. One thread at a time."""

    def __init__(self, anchor: Anchor, settings: LearnSettings) -> None:
        self.settings, self.anchor = settings, anchor
        self.accepted = Candidate.new(anchor, settings.rates)
        self.candidate = Candidate.new(anchor, settings.rates)
        self.is_waiting = False  # the candidate differs from the accepted weights
        self.pool = Pool()

    def test(self, exam: Exam) -> Verdict:
        """Rank a slice before it is learnt, and decide about the candidate if it has waited."""
        if not self.is_waiting:
            return Verdict(NOTHING)
        for version, hits in (
            (self.candidate, self.pool.candidate),
            (self.accepted, self.pool.accepted),
        ):
            catalog, neighbours = exam.catalog, exam.neighbours
            hits += answer(version.recommender, catalog, neighbours, exam.questions).is_hit
        self.pool.num_slices += 1
        gates = self.settings.gates
        on_slices = Paired.of(self.pool.candidate, self.pool.accepted)
        is_early = self.pool.num_slices < gates.most_slices
        if on_slices.num < gates.least_events and is_early and not on_slices.is_below(0):
            return Verdict(WAITING, str(on_slices))
        return self._decide(exam, on_slices)

    def learn(self, lesson: Lesson) -> list[float]:
        """Take the candidate's steps; return their losses."""
        if not lesson.new:
            return []
        self.is_waiting = True
        return learn_events(
            self.candidate.recommender,
            self.candidate.optimizer,
            lesson.catalog,
            lesson.new,
            lesson.old,
            self.settings.steps,
            seed=lesson.seed,
            unripe=lesson.unripe,
        )

    def grow(self, known: Sequence[NDArray[np.int64]]) -> None:
        """Add rows of zeros for prefixes, by depth; no score changes."""
        rates = self.settings.rates
        self.anchor = anchor_knowing(self.anchor.recommender, known)
        self.accepted = self.accepted.grown(known, self.anchor, rates)
        self.candidate = self.candidate.grown(known, self.anchor, rates)

    def _decide(self, exam: Exam, on_slices: Paired) -> Verdict:
        answers = [
            answer(
                recommender,
                exam.catalog,
                exam.neighbours,
                exam.old_questions,
                is_young=exam.young.__contains__,
            )
            for recommender in (self.candidate.recommender, self.anchor.recommender)
        ]
        on_old = Paired.of(answers[0].is_hit, answers[1].is_hit)
        failed = failed_gates(
            self.settings.gates,
            on_slices=on_slices,
            on_old=on_old,
            answers=answers[0],
            weights=self.candidate.weights,
            anchor=self.anchor.weights,
        )
        recall = float(np.mean(self.pool.candidate)) if self.pool.candidate else None
        slow = is_slow(self.settings.gates, answers[0], answers[1]) or ""
        rates, kept = self.settings.rates, self.accepted if failed else self.candidate
        if failed:
            self.candidate = kept.copy(self.anchor, rates)
        else:
            self.accepted = kept.copy(self.anchor, rates)
        self.is_waiting, self.pool = False, Pool()
        outcome = REFUSED if failed else ACCEPTED
        return Verdict(outcome, str(on_slices), str(on_old), recall, failed, slow)
