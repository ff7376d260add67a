"""Progress on a terminal: a bar with users a second and the time left. All of it on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from offline.disk.outcome import Outcome


class _UsersPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.completed / max(task.elapsed or 0.0, 0.1)
        return Text(f"{speed:,.1f} users/s", style="progress.data.speed")


class _Progress(Progress):
    """Below the bars, what only thinking has to say."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if facts := task.fields.get("facts"):
                yield Text(f"{task.description}: {facts}")


def make_progress(console: Console) -> Progress:
    return _Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _UsersPerSecond(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class ThinkMeter:
    """Thinking as it goes: what was on the disk before counts as done, but not as fast."""

    def __init__(
        self, progress: Progress, num_users: int, *, price_per_hour: float | None = None
    ) -> None:
        self.outcome = Outcome()  # of this process
        self._progress = progress
        self._price_per_hour = price_per_hour
        self._task = progress.add_task("think", total=num_users, visible=num_users > 0)
        self._num_done = 0
        self._started = time.monotonic()

    def report(self, outcome: Outcome, is_earlier: bool) -> None:
        self._num_done += outcome.num_users
        if is_earlier:
            self._progress.reset(self._task, completed=self._num_done)
            return
        self.outcome.add(outcome)
        facts = self._facts(time.monotonic() - self._started)
        self._progress.update(self._task, completed=self._num_done, facts=facts)

    def _facts(self, seconds: float) -> str:
        closed, dropped = self.outcome.closed_paths, self.outcome.dropped_paths
        facts = [
            f"{self.outcome.tokens / max(seconds, 0.1):,.0f} tokens/s",
            f"{closed / max(closed + dropped, 1):.0%} of paths closed",
        ]
        if self._price_per_hour is not None:
            facts.append(f"cost {seconds / 3600 * self._price_per_hour:,.2f}")
        return ", ".join(facts)

    def rates(self, think_s: float) -> dict[str, Any]:
        """Of this process alone. think_s: seconds that it thought. cost: null without a price."""
        users, tokens = self.outcome.num_users, self.outcome.tokens
        price = self._price_per_hour
        return {
            "users_thought_now": users,
            "users_per_s": round(users / think_s, 3) if think_s else None,
            "tokens_per_s": round(tokens / think_s, 1) if think_s else None,
            "cost": round(think_s / 3600 * price, 4) if price is not None else None,
        }


class Stopwatch:
    """Seconds spent per stage; a stage may be entered many times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def report(self) -> dict[str, float]:
        """Rounded, with the time since the start as `total`."""
        total = time.monotonic() - self._started
        return {
            stage: round(spent, 3) for stage, spent in (self.seconds | {"total": total}).items()
        }
