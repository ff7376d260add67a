"""A night that is killed with -9 again and again equals one that is not (R6)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.release.release import Release
from tests import ROOT


@pytest.mark.timeout(900)  # as many processes are started, and other work may have the cores
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_a_night_killed_again_and_again_equals_one_that_was_not(
    kills: int, release: Release, tmp_path: Path
) -> None:
    """Every file except those with times, and the store, are equal byte by byte.

    The night has the transformers engine, a failing user, users carried from the night before,
    and segments torn in a write.
    """
    (tmp_path / "nights").mkdir()
    arguments = (release.directory, tmp_path / "nights", kills, 10)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.killed_nights", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["kills"] == kills
    assert found["torn"] >= 1
    assert found["files"] > 12
    # A kill costs at most the micro-batch it struck.
    assert found["batches"] == 6
    assert 0 < found["redone"] <= found["kills"]
