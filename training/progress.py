"""Progress of one training stage: loss, tokens/s, time left. A bar on a terminal, or log lines."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from training.steps import report_step

logger = logging.getLogger(__name__)
_LOG_EVERY = 50


class StageBar:
    """Context manager. Draws a bar only if standard error is an interactive terminal."""

    def __init__(self, stage: str, total: int, *, done: int = 0) -> None:
        console = Console(stderr=True)
        self._is_drawn = console.is_terminal and not console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[rate]:.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._is_drawn,
        )
        self._stage, self._total, self._first = stage, total, done
        self._task: TaskID = self._bar.add_task(
            stage, total=total, completed=done, loss=float("nan"), rate=0.0
        )
        self._started = time.monotonic()
        self._num_tokens = 0
        report_step(stage, done, total, first=done)

    def __enter__(self) -> "StageBar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, done: int, *, loss: float, num_tokens: int) -> None:
        """Show a step. done: steps so far. num_tokens: of this step. loss: mean of recent steps."""
        self._num_tokens += num_tokens
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._num_tokens / elapsed
        self._bar.update(self._task, completed=done, loss=loss, rate=rate)
        report_step(self._stage, done, self._total, first=self._first)
        if not self._is_drawn and (done % _LOG_EVERY == 0 or done == self._total):
            to_go = elapsed / max(done - self._first, 1) * (self._total - done)
            logger.info(
                "%s step %d/%d loss %.3f  %.0f tokens/s  %.0f s, %.0f s to go",
                self._stage, done, self._total, loss, rate, elapsed, to_go,
            )  # fmt: skip
