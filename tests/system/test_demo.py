"""The demo through the real commands: real store, real processes, a toy release."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.catalog.catalog import Catalog
from models.release.release import Release
from models.store.embedded import is_held
from tests import ROOT


def write_dataset(folder: Path, catalog: Catalog, *, num_users: int) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"user-{user}", "item_id": catalog.item_ids[item], "timestamp": pos, "pos": pos}
        for user in range(num_users)
        for pos, item in enumerate(rng.choice(len(catalog), size=6, replace=False))
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    items = {"item_id": list(catalog.item_ids), "title": list(catalog.titles)}
    pq.write_table(pa.table(items), folder / "items.parquet")


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with a wide budget: on a busy machine a late answer comes from a lower rung."""
    environ = {key: value for key, value in os.environ.items() if "THINKAHEAD" not in key}
    environ |= {"THINKAHEAD_REQUEST_BUDGET_MS": "10000", "THINKAHEAD_REDIS_TIMEOUT_MS": "5000"}
    return subprocess.run(
        [sys.executable, "-m", "bench", "demo", *arguments],
        cwd=ROOT,
        env={**environ, "THINKAHEAD_STATE_DIR": str(folder / "state"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_the_demo_shows_three_users_and_leaves_nothing_running(
    release: Release, tmp_path: Path
) -> None:
    """Twice: the second run finds a full store and does as well."""
    write_dataset(tmp_path / "data", release.catalog, num_users=12)
    arguments = ["--release", str(release.directory), "--data", str(tmp_path / "data")]
    for _ in range(2):
        done = run_demo(tmp_path, *arguments, "--users", "9")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("recommended by personal") == 3
        assert "path " in done.stdout
        assert "Title of item-" in done.stdout
        assert "total" in done.stdout
        assert not is_held(tmp_path / "state" / "redis", "watcher")
        assert not is_held(tmp_path / "state" / "redis", "server")


def test_a_broken_release_ends_the_demo_with_one_line(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--release", str(tmp_path / "nothing"))
    assert done.returncode == 78
    assert done.stderr.startswith("bench demo: ")
    assert len(done.stderr.strip().splitlines()) == 1
