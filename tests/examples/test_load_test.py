"""The Locust run: its command is one of ours, and visitors find nothing wrong with a service."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load.scenario import _parser
from tests import ROOT
from tests.fakes.service_harness import RedisServer, ServiceProcess, toy_release_dir

SCRIPT = ROOT / "examples" / "load_test.sh"


def test_it_runs_a_command_of_ours() -> None:
    text = SCRIPT.read_text()
    assert "-m thinkahead bench scenario" in text
    options = re.findall(r"(--[a-z]+) \"\$", text)
    assert len(options) == 4
    assert [option for option in options if option not in _parser().format_help()] == []


@pytest.mark.system
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="`make locust` installs it")
def test_visitors_find_nothing_wrong(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as redis,
        ServiceProcess("--release", str(toy_release_dir()), "--redis", redis.url) as service,
    ):
        done = subprocess.run(
            ["sh", str(SCRIPT), service.url, "data/beauty", "5", "3"],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
