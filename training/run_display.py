"""Time left of a whole run: a bar on a terminal, otherwise a line every half minute.

Reads the reports of finished stages and the steps of running ones. Knows nothing of processes.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from training.eta import Progress, describe_seconds, expected_work, seconds_left
from training.run import Run
from training.sasrec_facts import is_made, read_facts
from training.steps import Steps, read_steps

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_LOOKS = 1.0
MODELS = ("online", "reasoner")


class RunDisplay:
    """Shows the time left of all rounds together. Used while children run."""

    def __init__(self, rounds: list[Run]) -> None:
        """rounds: one, or the first and the second."""
        self._rounds, self._at = rounds, rounds[0]
        self._started = time.monotonic()
        self._looked = self._said = -float("inf")
        self._bar: Bar | None = None

    @contextmanager
    def show(self, run: Run) -> Iterator[None]:
        """Draw the bar while a round is trained, if standard error is a terminal."""
        self._at = run if run.first is None else self._rounds[-1]
        console = Console(stderr=True)
        if not console.is_terminal or console.is_dumb_terminal:
            yield
            return
        columns = BarColumn(), TextColumn("{task.description}")
        with Bar(*columns, console=console, transient=True) as self._bar:
            self._bar.add_task("measuring the first steps", total=1.0)
            yield
        self._bar = None

    def look(self) -> None:
        """Read the steps and show them, not more often than needed."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        left = self.left()
        text = self._describe(left)
        if self._bar is not None:
            elapsed = now - self._started
            share = elapsed / (elapsed + left) if left is not None else 0.0
            self._bar.update(self._bar.task_ids[0], completed=share, description=text)
        elif left is not None and now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            logger.info("%s", text)

    def left(self) -> float | None:
        """Return the seconds left of all rounds; None before both models have run a step.

        The models of a round are trained side by side, so the slower one counts.
        """
        chains = [
            seconds_left([self._online(of) for of in self._rounds]),
            seconds_left([self._reasoner(of) for of in self._rounds]),
        ]
        known = [chain for chain in chains if chain is not None]
        if len(known) < len(chains):
            return None
        left: float = sum(max(of_round) for of_round in zip(*known, strict=True))
        return left

    def _online(self, run: Run) -> list[Progress]:
        """Return the progress of the teacher, if there is one, and of the online recommender."""
        names = ("sasrec", "online") if run.recipe.teacher.share else ("online",)
        return [self._fitted(run, name) for name in names]

    def _fitted(self, run: Run, name: str) -> Progress:
        """Return the progress in epochs: at most as many as the recipe says, until it stopped."""
        first, steps_file = self._rounds[0], run.work / "online.steps"
        made = _fit_outcome(first, name)
        growth = run.split.num_train / max(first.split.num_train, 1)
        if made is None:
            work = growth * run.recipe.online.epochs
            return _running(work, read_steps(steps_file) if run is first else None, name)
        work, seconds = growth * made["epoch"], made["seconds"]
        if run is first:
            return Progress(work, 1.0, seconds, 1.0)
        if _fit_outcome(run, name) is not None:
            return Progress(work, 1.0)
        return _running(work, read_steps(steps_file), name)

    def _reasoner(self, run: Run) -> list[Progress]:
        steps = read_steps(run.work / "reasoner.steps")
        found = []
        size = run.size._replace(events=run.split.num_train, users=len(run.split.users))
        for stage, work in expected_work(run.recipe, size).items():
            made = _outcome(run, stage)
            if made is not None:
                found.append(Progress(work, 1.0, made["seconds"], 1.0))
            else:
                found.append(_running(work, steps, stage))
        return found

    def _describe(self, left: float | None) -> str:
        at, parts = self._at, []
        for model in MODELS:
            steps = read_steps(at.work / f"{model}.steps")
            if steps and not at.is_done(model):
                parts.append(f"{steps.stage} {steps.done}/{steps.total}")
        time_left = (
            "measuring" if left is None else f"about {describe_seconds(left)} of training left"
        )
        where = f"round {self._rounds.index(at) + 1} of {len(self._rounds)}"
        return f"{time_left}; {where}: {', '.join(parts) or 'starting'}"


def _running(work: float, steps: Steps | None, stage: str) -> Progress:
    """Return the progress of a stage that has not finished."""
    if steps is None or steps.stage != stage or not steps.total:
        return Progress(work)
    measured = (steps.done - steps.first) / steps.total
    return Progress(work, steps.done / steps.total, steps.seconds if measured else 0.0, measured)


def _outcome(run: Run, stage: str) -> dict[str, Any] | None:
    """Return the report of a stage that is done with this data and recipe."""
    return run.outcome(stage) if run.is_done(stage) else None


def _fit_outcome(run: Run, name: str) -> dict[str, Any] | None:
    """Return the figures of a fitted model: `sasrec`, the teacher, or `online`."""
    if name == "online":
        return _outcome(run, name)
    folder = run.teacher_dir(run.learns)
    return read_facts(folder) if is_made(folder) else None
