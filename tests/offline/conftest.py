"""Fixtures of the offline tier: worlds with histories, data folders, an embedded server."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from models.release.release import Release
from models.store.embedded import attach
from offline.plan.importer import import_dataset
from offline.progress import make_progress
from tests.fakes import night_world
from tests.fakes.offline_command import OfflineCommand
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_night import ImportedWorld, NightWorld, write_data


@pytest.fixture
def progress() -> Progress:
    return make_progress(Console(file=io.StringIO()))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", toy_catalog())
    return tmp_path / "data"


@pytest.fixture
def world(release: Release, tmp_path: Path) -> NightWorld:
    """Nights over a store in memory."""
    return NightWorld(release, tmp_path / "generations")


@pytest.fixture
def imported_world(
    release: Release, tmp_path: Path, progress: Progress, data_dir: Path
) -> ImportedWorld:
    world = ImportedWorld(release, tmp_path / "generations", progress)
    asyncio.run(import_dataset(data_dir, world.store, progress))
    return world


@pytest.fixture
def redis_world(server: RedisServer, tmp_path: Path) -> night_world.NightWorld:
    """Generations over an empty Redis."""
    server.flush()
    return night_world.NightWorld(server.url, tmp_path / "generations")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder; its embedded server runs for the whole test."""
    monkeypatch.delenv("THINKAHEAD_REDIS_URL", raising=False)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(tmp_path / "state"))
    with attach(tmp_path / "state"):
        yield tmp_path / "state"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> OfflineCommand:
    return OfflineCommand(capsys)
