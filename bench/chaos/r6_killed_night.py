"""R6: the nightly job killed with SIGKILL at fifty seeded points; runs the test of it."""

import re
import subprocess
import sys
from pathlib import Path

from bench.chaos.findings import Bound, Finding
from bench.chaos.world import Conditions

_ROOT = Path(__file__).resolve().parents[2]
_TEST = "tests/system/test_night_kills.py"
_PASSED = re.compile(r"^(\d+) passed", re.MULTILINE)


def measure(_conditions: Conditions) -> Finding:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", _TEST],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    passed = _PASSED.search(done.stdout)
    print(f"R6 {' '.join(done.stdout.strip().splitlines()[-1:])}")
    bounds = [
        Bound("tests failed", done.returncode, "==", 0),
        Bound("tests passed", int(passed.group(1)) if passed else 0, ">=", 1),
    ]
    return Finding("R6", bounds)
