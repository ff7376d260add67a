"""Steps of a stage, written by its process to a small file and read by the process of the run."""

import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

_steps = logging.getLogger("training.steps")
_SECONDS_BETWEEN_WRITES = 1.0


class Steps(NamedTuple):
    """Progress of the stage that a process is at."""

    stage: str
    done: int  # steps so far
    total: int  # at most
    first: int  # steps that an earlier process had done
    seconds: float  # for the others


def report_step(stage: str, done: int, total: int, *, first: int = 0) -> None:
    """Report the steps of a stage so far; nothing happens unless a StepsFile follows.

    first: steps that an earlier process had done.
    """
    _steps.debug("%s", stage, extra={"steps": (stage, done, total, first)})


class StepsFile(logging.Handler):
    """Writes the newest report to a file, at most once a second, and each stage's last one."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._stage = ""
        self._began = self._reported = self._written = time.monotonic()

    def follow(self) -> None:
        """Begin to listen to `report_step` of this process."""
        _steps.setLevel(logging.DEBUG)
        _steps.propagate = False
        _steps.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        steps = _read_record(record)
        if steps.stage != self._stage:
            self._began, self._stage = self._reported, steps.stage
        self._reported = now
        if steps.done == steps.total or now - self._written > _SECONDS_BETWEEN_WRITES:
            self._written = now
            draft = self._file.with_suffix(".draft")
            draft.write_text(json.dumps(steps._replace(seconds=now - self._began)))
            draft.replace(self._file)


def _read_record(record: logging.LogRecord) -> Steps:
    stage, done, total, first = vars(record)["steps"]
    return Steps(stage, done, total, first, 0.0)


def read_steps(file: Path) -> Steps | None:
    """Read a file of StepsFile; None before the first report."""
    if not file.is_file():
        return None
    return Steps(*json.loads(file.read_text()))
