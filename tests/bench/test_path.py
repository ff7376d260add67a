"""`bench path`: parts that add up to the whole, of a real service on the toy release."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load.request_path import REST, WHOLE, table
from tests import ROOT
from tests.fakes.service_harness import toy_release_dir
from tests.fakes.toy import toy_catalog
from tests.system.test_demo import write_dataset

pytestmark = pytest.mark.system


def test_what_the_parts_leave_is_named_and_they_add_up() -> None:
    rows = table({"store": 100.0, "finish": 50.0, WHOLE: 400.0})
    assert [row["name"] for row in rows] == ["store", "finish", REST, WHOLE]
    assert rows[2]["cpu_us"] == 250.0
    assert sum(float(row["share"]) for row in rows[:-1]) == pytest.approx(1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="processes keep to a core on Linux only")
def test_a_real_service_is_taken_apart(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    write_dataset(tmp_path / "data", toy_catalog(), num_users=30)
    file = tmp_path / "path.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "path", "--json", str(file), "--requests", "100"),
            *("--release", str(toy_release_dir()), "--data", str(tmp_path / "data")),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if "THINKAHEAD" not in key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cpu_us = {row["name"]: row["cpu_us"] for row in json.loads(file.read_text())["rows"]}
    assert cpu_us[WHOLE] > cpu_us["store (one round trip)"] > 0
    assert cpu_us["finish"] > 0
    assert f"| {REST} |" in file.with_suffix(".md").read_text()
