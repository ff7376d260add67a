"""Stages in child processes: none is left after a signal, and a failure shows its log."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.errors import ThinkAheadError
from models.release.release import Learns
from training.children import run_children

SLEEP = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(120)"
PARENT = """
import sys
from pathlib import Path
from models.release.release import Learns
from training.children import run_children
command = [sys.executable, "-c", sys.argv[2]]
run_children(command, ["a", "b"], learns=Learns.HELD_OUT, folder=Path(sys.argv[1]))
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_pids(folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        texts = [file.read_text() for file in folder.glob("*.log")]
        if len(texts) == 2 and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.05)
    raise AssertionError("no child has started")


@pytest.mark.system
def test_sigterm_leaves_no_process(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), SLEEP])
    children = wait_for_pids(tmp_path)
    assert all(map(is_alive, children))
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) == 128 + signal.SIGTERM
    assert not any(map(is_alive, children))


def test_a_failed_stage_ends_the_others_and_shows_its_log(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; print('no room left'); sys.exit(sys.argv[1] == 'a')",
    ]
    with pytest.raises(ThinkAheadError, match=r"stage a failed \(exit code 1\).*no room left"):
        run_children(command, ["a", "b"], learns=Learns.HELD_OUT, folder=tmp_path)
    assert (tmp_path / "b.log").read_text().strip() == "no room left"
