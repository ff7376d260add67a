"""Progress bar, stopwatch, and the time that each micro-batch took.

The bar shows users per second and the time left, on stderr. The timings of a shard are in
`part-00000.times` beside it, one JSON line per micro-batch. A shard itself holds no times: its
bytes do not depend on the number of stops. Timings give the speed and cost of a night
that many processes shared. No other file depends on them, so a torn line is skipped.
"""

import heapq
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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

NUM_SLOWEST = 5


class _UsersPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.completed / max(task.elapsed or 0.0, 0.1)
        return Text(f"{speed:,.1f} users/s", style="progress.data.speed")


class _Progress(Progress):
    """Bars, and below them a line with the facts of thinking (tokens/s, closed paths, cost)."""

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
    """Shows the progress of thinking.

    Micro-batches that an earlier process left on disk count as done, but not towards the speed.
    """

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
        """Return speed and cost of this process alone.

        think_s: seconds that this process spent thinking. `cost` is None without a price.
        """
        users, tokens = self.outcome.num_users, self.outcome.tokens
        price = self._price_per_hour
        return {
            "users_thought_now": users,
            "users_per_s": round(users / think_s, 3) if think_s else None,
            "tokens_per_s": round(tokens / think_s, 1) if think_s else None,
            "cost": round(think_s / 3600 * price, 4) if price is not None else None,
        }


class Stopwatch:
    """Measures the seconds spent in each stage; a stage may be entered many times."""

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
        """Return seconds per stage, rounded, and the time since the start as `total`."""
        total = time.monotonic() - self._started
        return {
            stage: round(spent, 3) for stage, spent in (self.seconds | {"total": total}).items()
        }


class Timing(NamedTuple):
    """Time of one micro-batch."""

    seconds: float  # of the process that thought about it
    shard: int
    batch: int  # number within the shard
    users: int
    tokens: int


def note_timing(folder: Path, timing: Timing) -> None:
    with (folder / f"part-{timing.shard:05d}.times").open("a") as stream:
        stream.write(json.dumps(timing) + "\n")


def read_timings(folder: Path) -> Iterator[Timing]:
    for file in sorted(folder.glob("part-*.times")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                seconds, *counts = json.loads(line)
                yield Timing(float(seconds), *map(int, counts))
            except (ValueError, TypeError):
                continue


def describe_timings(folder: Path, *, price_per_hour: float | None) -> dict[str, Any]:
    """Summarise the timings of all processes.

    `think_s` is the sum over processes; `users_per_s` and `tokens_per_s` are per process. `cost`
    covers thinking only and is None without a price.
    """
    users, tokens, seconds = 0, 0, 0.0
    slowest: list[Timing] = []
    for timing in read_timings(folder):
        users, tokens = users + timing.users, tokens + timing.tokens
        seconds += timing.seconds
        push = heapq.heappush if len(slowest) < NUM_SLOWEST else heapq.heappushpop
        push(slowest, timing)
    return {
        "think_s": round(seconds, 3),
        "users_per_s": round(users / seconds, 3) if seconds else None,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
        "cost": round(seconds / 3600 * price_per_hour, 4) if price_per_hour is not None else None,
        "slowest_batches": [timing._asdict() for timing in sorted(slowest, reverse=True)],
    }
