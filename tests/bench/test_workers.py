"""`bench workers`: a closed loop that is light, and a whole run on the toy release."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load.closed_loop import run_closed_loop
from bench.load.http_connection import BrokenAnswerError, render
from tests import ROOT
from tests.bench.test_latency import OK, fake_server
from tests.fakes.service_harness import toy_release_dir
from tests.fakes.toy import toy_catalog
from tests.system.test_demo import write_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll and cores are Linux's")
ASKED = [render("GET", "/recommend/a"), render("GET", "/recommend/b")]


def test_each_connection_asks_again_behind_its_answer() -> None:
    with fake_server(lambda _: OK) as address:
        run = run_closed_loop(address, ASKED, num_connections=3, seconds=0.2, mark=b"{}")
    assert run.num_marked == len(run.latencies_s) > 3
    assert run.rate == len(run.latencies_s) / run.seconds
    assert 0 < max(run.latencies_s) <= run.seconds


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"), (None, "closed")],
)
def test_any_other_answer_than_200_ends_the_run(answer: bytes | None, why: str) -> None:
    with fake_server(lambda _: answer) as address, pytest.raises(BrokenAnswerError, match=why):
        run_closed_loop(address, ASKED, num_connections=1, seconds=5.0, mark=b"")


@pytest.mark.slow
def test_two_real_workers_beside_one(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    write_dataset(tmp_path / "data", toy_catalog(), num_users=30)
    file = tmp_path / "workers.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "workers", "--json", str(file), "--users", "30"),
            *("--rounds", "1", "--seconds", "1", "--connections", "8"),
            *("--release", str(toy_release_dir()), "--data", str(tmp_path / "data")),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if "THINKAHEAD" not in key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = json.loads(file.read_text())["rows"]
    assert (one["name"], two["name"], one["ratio"]) == ("1 worker", "2 workers", 1.0)
    assert two["answers"] > 0
    assert two["service_us"] > two["generator_us"] > 0
