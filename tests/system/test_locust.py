"""Locust's simulated users on a real service. Locust patches sockets: a process of its own."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.fakes.service_harness import RedisServer, ServiceProcess, toy_release_dir

SCENARIO = (sys.executable, "-m", "bench", "scenario")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="`make locust` installs it"
)


def test_the_weights_are_those_that_are_documented() -> None:
    code = """
import json
from bench.load import locustfile
classes = (locustfile.Regular, locustfile.Occasional, locustfile.Stranger, locustfile.Curious)
print(json.dumps([locustfile.__doc__, {each.__name__: each.weight for each in classes}]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    documentation, weights = json.loads(done.stdout)
    documented = re.findall(r"^    (\d+) +`(\w+)`", documentation, re.MULTILINE)
    assert {name: int(weight) for weight, name in documented} == weights
    assert sum(weights.values()) == 10


def test_visitors_find_nothing_wrong_with_a_service(tmp_path: Path) -> None:
    """Every scenario is played, and none of its checks fails."""
    with (
        RedisServer(tmp_path) as redis,
        ServiceProcess("--release", str(toy_release_dir()), "--redis", redis.url) as service,
    ):
        done = subprocess.run(
            [*SCENARIO, "--host", service.url, "--users", "20", "--seconds", "8"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    for asked in ("GET +hot user", "GET +cold user", "GET +stranger", "GET +why", "POST +event"):
        assert re.search(asked, report), report


def test_a_service_that_is_not_there_fails_the_command() -> None:
    done = subprocess.run(
        [*SCENARIO, "--host", "http://127.0.0.1:9", "--users", "1", "--seconds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
