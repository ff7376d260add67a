"""Commands and workers on a live folder, whose pointer moves to another base."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from models.errors import InvalidRelease
from models.release.live import LiveFolder
from models.release.release import Release
from models.store.model_pointer import LiveVersion
from offline.disk.bases import load_base
from offline.live.base_follower import BaseFollower
from offline.settings import RefreshSettings
from offline.think.engine_choice import EngineSettings
from offline.think.engines import Thinkers
from tests.fakes.night_world import NightWorld
from tests.fakes.offline_command import OfflineCommand
from tests.fakes.toy_live import pointer_to
from tests.offline.test_worker import ANN, ask_for, think_first, working


@pytest.fixture
def live(release: Release, tmp_path: Path) -> LiveFolder:
    folder = LiveFolder(tmp_path / "live")
    folder.publish_base(release.directory)
    folder.move(pointer_to(LiveVersion(release.version, 0, ""), epoch=1))
    return folder


def move_to_another_base(live: LiveFolder, release: Release, tmp_path: Path) -> Release:
    """Publish the release under another version, and point to it."""
    copy = tmp_path / "copy"
    shutil.copytree(release.directory, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"metrics": {"another": 1}}))
    other = live.publish_base(copy)
    live.move(pointer_to(LiveVersion(other.version, 0, ""), epoch=2))
    return other


def test_a_night_keeps_the_base_of_its_plan(
    live: LiveFolder,
    release: Release,
    tmp_path: Path,
    state: Path,
    data_dir: Path,
    call: OfflineCommand,
) -> None:
    call("import", "--data", data_dir)
    code, _, _ = call(*("plan", "--release", live.path, "--users", 2, "--paths", 2, "--width", 2))
    other = move_to_another_base(live, release, tmp_path)
    codes = [call(command, "--release", live.path)[0] for command in ("think", "validate")]
    assert (code, codes) == (0, [0, 0])
    assert load_base(live.path).version == other.version
    assert call("export", "--release", live.path, "--out", tmp_path / "new")[0] == 0


def test_a_worker_takes_the_new_base_and_refuses_a_damaged_one(
    live: LiveFolder,
    release: Release,
    redis_world: NightWorld,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_world.append(ANN, "item-1", "item-2")
    loaded: list[str] = []

    def load(base: Release) -> object:
        loaded.append(base.version)
        return partial(think_first)

    follower = BaseFollower(live.path, load)  # type: ignore[arg-type]
    with working(redis_world) as worker:
        first = follower.look(worker)
        assert (first.release.version, follower.look(first)) == (release.version, first)
        other = move_to_another_base(live, release, tmp_path)
        second = follower.look(first)
        assert (second.release.version, loaded) == (other.version, [release.version, other.version])
        ask_for(redis_world, ANN)
        assert second.serve_once() == (1, 1)
        (live.base_dir(release.version) / "catalog.parquet").unlink()
        live_pointer = pointer_to(LiveVersion(release.version, 0, ""), epoch=3)
        live.move(live_pointer)
        assert follower.look(second) is follower.look(second) is second
    assert caplog.text.count("catalog.parquet") == 1


def test_a_reasoner_that_stays_the_same_is_loaded_once(
    live: LiveFolder, release: Release, tmp_path: Path
) -> None:
    settings = RefreshSettings(live.path, tmp_path, paths=2, width=2)
    thinkers = Thinkers(settings, EngineSettings())
    thinks = [
        thinkers.load(each) for each in (release, move_to_another_base(live, release, tmp_path))
    ]
    reasoners = [think.args[0] for think in thinks if isinstance(think, partial)]
    assert len(reasoners) == 2
    assert reasoners[0] is reasoners[1]


def test_a_live_folder_without_a_base_is_one_line(live: LiveFolder, call: OfflineCommand) -> None:
    shutil.rmtree(live.path / "bases")
    with pytest.raises(InvalidRelease, match=r"manifest\.json: cannot be read"):
        load_base(live.path)
