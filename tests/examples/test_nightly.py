"""The crontab and the systemd units: one command, which makes a night live."""

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from models.release.release import Release
from offline.commands.exits import EX_CONFIG, EX_DATAERR, EX_TEMPFAIL
from tests import ROOT
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_data import write_toy_data
from thinkahead.__main__ import main

FOLDER = ROOT / "examples" / "nightly"
LINE = re.compile(r"(?:\S+ ){5}cd /srv/think-ahead && \.venv/bin/thinkahead ([^>]*)")


def cron_commands() -> list[list[str]]:
    lines = (FOLDER / "crontab").read_text().splitlines()
    found = [LINE.fullmatch(line.split(" >>")[0]) for line in lines if not line.startswith("#")]
    assert all(found)
    return [shlex.split(match[1]) for match in found if match]


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FOLDER / name)
    return parser


def test_both_forms_run_the_same_command() -> None:
    command = unit("think-ahead-night.service")["Service"]["ExecStart"]
    night, _ = cron_commands()
    assert shlex.split(command) == ["/srv/think-ahead/.venv/bin/thinkahead", *night]


def test_a_unit_starts_again_what_can_continue_and_nothing_else() -> None:
    service = unit("think-ahead-night.service")["Service"]
    assert service["Restart"] == "on-failure"
    stopped = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert stopped == {EX_DATAERR, EX_CONFIG}
    assert EX_TEMPFAIL not in stopped


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_when_the_night_is() -> None:
    when = unit("think-ahead-night.timer")["Timer"]["OnCalendar"]
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_crontab_run(
    release: Release,
    tmp_path: Path,
    own_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("THINKAHEAD_REDIS_URL", own_server.url)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(tmp_path / "state"))
    data = write_toy_data(release.catalog, tmp_path / "data")
    ours = {"releases/mine": str(release.directory), "mine": str(data)}
    for command in cron_commands():
        assert main([ours.get(word, word) for word in command]) == 0
    assert "epoch 1" in capsys.readouterr().out
