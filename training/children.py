"""Stages in processes of their own, side by side, each with one thread and a log file.

On two cores this is faster than one stage after the other with two threads.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from models.errors import ThinkAheadError
from models.release.release import Learns

_POLL_S = 0.2
_LAST_LINES = 15  # of the log of a failed stage


def run_children(
    command: Sequence[str],
    stages: Sequence[str],
    *,
    learns: Learns,
    folder: Path,
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Run stages until all have ended.

    No process is left when this returns or raises, also after SIGTERM and Ctrl-C.

    Args:
        command: of `python -m training` with its options, without a stage.
        folder: for one log per stage, and a file with its steps.
        on_wait: called a few times a second.

    Raises:
        ThinkAheadError: a stage failed; the text has the end of its log.
    """
    children: dict[str, subprocess.Popen[bytes]] = {}
    with _sigterm_raises():
        try:
            for stage in stages:
                children[stage] = _start(command, stage, learns, folder)
            while any(child.poll() is None for child in children.values()):
                on_wait()
                time.sleep(_POLL_S)
        finally:
            for child in children.values():
                child.terminate()
            for child in children.values():
                child.wait()
    for stage, child in children.items():
        if child.returncode:
            raise ThinkAheadError(_describe(stage, child.returncode, _log(folder, stage)))


def _start(
    command: Sequence[str], stage: str, learns: Learns, folder: Path
) -> "subprocess.Popen[bytes]":
    plain = os.environ | {"TERM": "dumb"}
    steps = folder / f"{stage}.steps"
    steps.unlink(missing_ok=True)  # of an earlier process
    words = [*command, stage, "--learns", learns.value, "--steps", str(steps)]
    with _log(folder, stage).open("ab") as out:
        return subprocess.Popen(words, env=plain, stdout=out, stderr=out)


def _log(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.log"


def _describe(stage: str, code: int, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"stage {stage} failed ({ended}); run again to resume. {log} ends: {' / '.join(lines)}"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block, SIGTERM raises SystemExit, so that `finally` ends the children."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
