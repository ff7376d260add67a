"""Progress on a terminal: a bar with users a second and the time left. All of it on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
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


class _UsersPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.completed / max(task.elapsed or 0.0, 0.1)
        return Text(f"{speed:,.1f} users/s", style="progress.data.speed")


def make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _UsersPerSecond(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


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
