"""`python -m training reason-day`: gates, a killed run, and what a release and a night get."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.log.event_log import EventLog
from models.release.release import Release
from tests.fakes.file_modes import modes_in
from tests.fakes.toy_evidence import reading_release
from tests.fakes.toy_learner import toy_dataset, toy_events, write_toy_data
from training.reasoner_day import reasoner_learner
from training.reasoner_day.cli import main

EASY = """[steps]
activate_passes = 1
[gates]
least_events = 5
most_events = 4
old_users = 4
paths = 1
new_margin = 99.0
forget_margin = 99.0
found_margin = 1.0
closed_margin = 1.0
formed_margin = 1.0
"""
SINCE = "900000000-0"  # behind the data folder


@pytest.fixture
def options(release: Release, tmp_path: Path) -> list[str]:
    """Old events in the data folder, 30 new ones in a log."""
    write_toy_data(toy_dataset(release.catalog), tmp_path / "data")
    EventLog(tmp_path / "log").append(toy_events(release.catalog, 30, start_ms=10**9))
    (tmp_path / "day.toml").write_text(EASY)
    return [
        *("--release", str(release.directory), "--data", str(tmp_path / "data")),
        *("--log", str(tmp_path / "log"), "--settings", str(tmp_path / "day.toml")),
        *("--out", str(tmp_path / "new"), "--work", str(tmp_path / "work")),
    ]


def test_its_help_waits_for_no_library_of_the_training() -> None:
    code = "import sys, training.reasoner_day.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def reasoner_of(directory: Path) -> bytes:
    return (directory / "reasoner/model.safetensors").read_bytes()


def test_a_release_gets_another_reasoner_and_says_what_it_has_learnt(
    release: Release, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    """The first run is killed before the last stage; a run that was not gives the same bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reasoner_learner.ReasonerDay, "_export", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*options, "--since", SINCE])
    early = (tmp_path / "work/reasoner_day/early.json").stat().st_mtime_ns
    later = toy_events(release.catalog, 9, seed=1, start_ms=2 * 10**9)
    EventLog(tmp_path / "log").append(later)  # they belong to the next day
    assert main([*options, "--since", SINCE]) == 0
    assert (tmp_path / "work/reasoner_day/early.json").stat().st_mtime_ns == early
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["events"], said["until"]) == ("accepted", 30, "1000029000-0")
    assert not (tmp_path / "work/reasoner_day/day.json").exists()
    made = Release.load(tmp_path / "new")
    assert len(set.union(*modes_in(made.directory))) == 2  # one of files, one of folders
    assert said["published"] == f"new@{made.version}"
    day = made.manifest.recipe["reasoner_day"]
    assert (day["until"], day["parent"]) == ("1000029000-0", release.version)
    assert (day["began"], day["old_logprob"]) == (SINCE, said["old_logprob"])
    assert made.manifest.recipe["reasoner_learnt"] == "everything"
    assert "to entry `1000029000-0` of the log" in (made.directory / "README.md").read_text()
    files, before = made.manifest.files, release.manifest.files
    changed = {name for name in before if files[name] != before[name]}
    assert {name for name in changed if not name.startswith("reasoner/")} == {"README.md"}
    assert "reasoner/model.safetensors" in changed
    assert "reasoner/tokenizer.json" not in changed  # it has the tokens of all codes
    assert files.keys() == before.keys()
    options[options.index("--out") + 1] = str(tmp_path / "again")
    options[options.index("--work") + 1] = str(tmp_path / "other work")
    whole = ["--since", SINCE, "--until", "1000029000-0"]
    assert main([*options, *whole]) == 0
    assert reasoner_of(tmp_path / "again") == reasoner_of(tmp_path / "new")
    # The next day begins where this one ended, and has too few events here.
    options[options.index("--release") + 1] = str(tmp_path / "again")
    options[options.index("--out") + 1] = str(tmp_path / "next")
    (tmp_path / "day.toml").write_text("[gates]\nleast_events = 10\n")
    capsys.readouterr()
    assert main(options) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"since": "1000029000-0", "events": 9, "outcome": "nothing"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "[gates]\nnew_margin = -99.0\nleast_events = 5\nmost_events = 6\npaths = 1\n",
            "new events",
        ),
        ("[steps]\nlearning_rate = 1e30\n[gates]\nleast_events = 5\n", "not finite"),
        ("[guard]\nitem_events = 0\nitem_share = 0.0\n", "30 of 30 new events were held back"),
    ],
)
def test_a_failed_gate_publishes_nothing(
    options: list[str], tmp_path: Path, capsys: Any, settings: str, said: str
) -> None:
    (tmp_path / "day.toml").write_text(settings)
    assert main([*options, "--since", SINCE]) == 65
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "reason-day: " in line]
    assert said in line
    assert not (tmp_path / "work/reasoner_day/day.json").exists()  # later events come too
    assert not (tmp_path / "new").exists()


def test_too_few_events_are_no_day(options: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*options, "--since", "1000027000-0"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"since": "1000027000-0", "events": 2, "outcome": "nothing"}
    assert not (tmp_path / "new").exists()


def test_bad_input_gets_one_line(options: list[str], tmp_path: Path, capsys: Any) -> None:
    def refused(*more: str) -> str:
        assert main([*options, *more]) == 78
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    assert "expected --since" in refused()
    since = ("--since", SINCE)
    assert "no such folder, expected the log" in refused(*since, "--log", str(tmp_path / "none"))
    (tmp_path / "day.toml").write_text("[steps]\nreplay_share = 1\n")
    assert "[steps] replay_share 1" in refused(*since)
    (tmp_path / "day.toml").write_text(EASY + "[reasoner]\ntuning = 'half'\n")
    assert "tuning = 'half', expected among" in refused(*since)
    (tmp_path / "day.toml").write_text(EASY)
    (tmp_path / "new").mkdir()
    assert "exists already" in refused(*since)
    with pytest.raises(SystemExit):
        main([*options, "--since", "yesterday"])
    assert "expected an entry of the log, ms-n, or a day" in capsys.readouterr().err


def test_a_reasoner_that_reads_evidence_has_no_day(
    release: Release, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    """Its prompts would lack the line that it has learnt."""
    reader = reading_release(release, tmp_path / "reader")
    assert main([*options, "--since", SINCE, "--release", str(reader.directory)]) == 78
    assert "reader: its reasoner reads evidence" in capsys.readouterr().err
