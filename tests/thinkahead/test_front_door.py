"""A night, the check of a start and the status page over a real store, by `thinkahead` alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.program import name_program
from models.release.live import LiveFolder
from models.release.release import Release
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_data import write_toy_data
from thinkahead.__main__ import main
from training.learn.one_learner import held_alone


@pytest.fixture(autouse=True)
def _own_names_again() -> Iterator[None]:
    yield
    for tier in ("training", "service", "offline", "bench"):
        name_program(tier, f"python -m {tier}")


@pytest.fixture
def data(release: Release, tmp_path: Path) -> Path:
    return write_toy_data(release.catalog, tmp_path / "data")


def test_from_a_data_folder_to_a_live_night(
    release: Release,
    data: Path,
    own_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("THINKAHEAD_REDIS_URL", own_server.url)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(data / "state"))
    monkeypatch.setenv("THINKAHEAD_REDIS_TIMEOUT_MS", "10000")  # beside other work
    directory = str(release.directory)
    assert main(["night", "--release", directory]) == 78
    assert "run `thinkahead night import --data DIR` first" in capsys.readouterr().err
    assert main(["night", "--release", directory, "--data", str(data), "--paths", "1"]) == 0
    assert main(["serve", "--check", "--release", directory, "--data", str(data)]) == 0
    assert "is live" in capsys.readouterr().out
    live = LiveFolder(data / "state" / f"{release.directory.name}.live")
    with held_alone(live.path):
        words = ["--release", directory, "--data", str(data)]
        assert main(["status", *words, "--url", "http://127.0.0.1:9"]) == 0
    page = capsys.readouterr().out
    assert "workers on demand: none" in page
    assert "6 users with a history" in page
    assert f"release  {directory}: {release.name}@{release.version}" in page
    assert f"learner  {live.path}: running, nothing published" in page
    assert "service  http://127.0.0.1:9: no service is ready there" in page


def test_a_store_that_is_away_is_one_line_and_the_rest_of_the_page_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(tmp_path))
    assert main(["status", "--redis", "redis://127.0.0.1:1/0", "--url", "http://127.0.0.1:9"]) == 75
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["store", "night", "service"]
