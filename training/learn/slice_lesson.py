"""Tests and learns one slice, in a thread beside the counting of the next one."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from training.learn.background import in_background
from training.learn.weight_learner import Exam, Lesson, Verdict, WeightLearner

_NICENESS = 5  # counting, and services on the same machine, come first


class Learnt(NamedTuple):
    """Outcome of a slice."""

    verdict: Verdict
    losses: list[float]
    failure: OSError | None  # of the save
    cpu_s: float


def begin_lesson(
    weights: WeightLearner, exam: Exam, lesson: Lesson, save: Callable[[], None] | None
) -> "Future[Learnt]":
    """Start to test, then to learn, then to save; nobody else may use the weights until the end.

    The accepted weights may be read: they are replaced, and never changed in place.
    """
    return in_background(lambda: _learn(weights, exam, lesson, save), niceness=_NICENESS)


def _learn(
    weights: WeightLearner, exam: Exam, lesson: Lesson, save: Callable[[], None] | None
) -> Learnt:
    started = time.thread_time()
    verdict = weights.test(exam)
    losses = weights.learn(lesson)
    failure = None
    if save is not None:
        try:
            save()
        except OSError as exc:
            failure = exc
    return Learnt(verdict, losses, failure, time.thread_time() - started)
