"""A canary of the model: both pointers have it, the learner publishes beside it, and it ends."""

import json
import shutil
from pathlib import Path

import pytest

from models.release.live import LiveFolder, LiveRelease, load_live
from models.release.release import Release
from models.store.model_pointer import LiveVersion, ModelPointer
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_live import add_toy_deltas, other_weights, pointer_to
from training.learn import both_pointers
from training.learn.both_pointers import move_pointers
from training.learn.canary import main
from training.learn.publisher import Publisher
from training.learn.store_side import StorePointer


@pytest.fixture
def folder(release: Release, tmp_path: Path) -> LiveFolder:
    """Two deltas on a base; the pointer names the second."""
    folder = LiveFolder(tmp_path / "live")
    live = LiveRelease.of(folder.publish_base(release.directory))
    folder.move(pointer_to(add_toy_deltas(folder, live, "cw"), epoch=7))
    return folder


def pointer_of(folder: LiveFolder) -> ModelPointer:
    pointer = folder.pointer()
    assert pointer is not None
    return pointer


def test_a_canary_begins_and_ends(
    folder: LiveFolder,
    release: Release,
    tmp_path: Path,
    server: RedisServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.flush()
    base = release.version
    options = ["--live", str(folder.path), "--redis", server.url]
    for wrong, said in (
        (["--base", f"{base}+3", "--percent", "5"], "no such delta"),
        (["--end", "promote"], "no canary serves"),
    ):
        assert main([*options, *wrong]) == 78
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "--base", base, "--percent", "100"])
    assert "'100', expected above 0 and below 100" in capsys.readouterr().err
    assert main([*options, "--base", f"toy@{base}+1", "--percent", "5"]) == 0
    assert capsys.readouterr().out == f"{base}+2 serves, {base}+1 for 5% of users, epoch 8\n"
    assert main([*options, "--end", "drop"]) == 0
    assert pointer_of(folder).canary is None
    refit = Path(shutil.copytree(release.directory, tmp_path / "refit"))
    manifest = json.loads((refit / "manifest.json").read_text())
    (refit / "manifest.json").write_text(json.dumps(manifest | {"name": "refit"}))
    assert main([*options, "--release", str(refit), "--percent", "50"]) == 0
    canary = pointer_of(folder).canary
    assert canary is not None
    assert main([*options, "--end", "promote"]) == 0
    assert pointer_of(folder).version == canary.version == LiveVersion(canary.base, 0, "")
    assert pointer_of(folder).canary is None


async def test_the_learner_publishes_beside_a_canary(folder: LiveFolder, release: Release) -> None:
    store, publisher, follower = (
        MemoryStore(),
        Publisher(folder, keep_bases=1),
        StorePointer(folder),
    )
    publisher.begin(release)
    await follower.follow(store)

    def with_canary(held: ModelPointer | None, epoch: int) -> ModelPointer:
        assert held is not None
        canary = {**folder.version(held.base, 1)._asdict(), "percent": 5}
        return ModelPointer.model_validate({**held.model_dump(), "epoch": epoch, "canary": canary})

    wanted = await move_pointers(folder, store, with_canary)
    await follower.follow(store)
    weights = other_weights(publisher.weights, seed=9)
    assert publisher.publish_delta(weights, None, "9-0", now_ms=1)
    await follower.follow(store)
    pointer = pointer_of(folder)
    assert (pointer.deltas, pointer.canary) == (3, wanted.canary)
    assert await store.read_model() == pointer
    load_live(folder, pointer.version)


async def test_a_learner_that_moves_the_pointer_at_the_same_time_is_no_error(
    folder: LiveFolder,
) -> None:
    store, tries = MemoryStore(), 0

    def change(held: ModelPointer | None, epoch: int) -> ModelPointer:
        nonlocal tries
        assert held is not None
        tries += 1
        if tries < both_pointers._TRIES:  # a learner is faster
            folder.move(held.model_copy(update={"epoch": epoch}))
        return held.model_copy(update={"epoch": epoch, "watermark": "5-0"})

    await move_pointers(folder, store, change)
    assert await store.read_model() == pointer_of(folder)
    assert (pointer_of(folder).watermark, pointer_of(folder).epoch) == ("5-0", 7 + tries)
