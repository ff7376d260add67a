"""Rolling back: the pointers of folder and store name an older version, and only one that loads."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from models.errors import ManifestConflict, StoreUnavailable
from models.release.live import LiveFolder, LiveRelease
from models.release.release import Release
from models.store.model_pointer import LiveVersion, ModelPointer
from models.store.redis_store import RedisStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_live import add_toy_deltas, pointer_to
from training.learn.roll_back import main
from training.learn.store_side import StorePointer


@pytest.fixture
def newest(release: Release, tmp_path: Path) -> LiveVersion:
    """Three deltas on a base; the folder's pointer names the third."""
    folder = LiveFolder(tmp_path / "live")
    live = LiveRelease.of(folder.publish_base(release.directory))
    version = add_toy_deltas(folder, live, "cwc")
    folder.move(pointer_to(version, epoch=7))
    return version


def stored_pointer(server: RedisServer) -> ModelPointer | None:
    async def read() -> ModelPointer | None:
        store = RedisStore(server.url, 5000)
        try:
            return await store.read_model()
        finally:
            await store.close()

    return asyncio.run(read())


def test_both_pointers_name_the_older_version(
    newest: LiveVersion, tmp_path: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.flush()
    options = ["--live", str(tmp_path / "live"), "--redis", server.url, "--to"]
    assert main([*options, f"toy@{newest.base}+2"]) == 0
    assert capsys.readouterr().out == f"{newest.base}+2 serves, epoch 8\n"
    pointer = LiveFolder(tmp_path / "live").pointer()
    assert pointer is not None
    assert pointer.deltas == 2
    assert pointer.watermark == "2-0"
    assert stored_pointer(server) == pointer
    assert main([*options, newest.base]) == 0
    assert stored_pointer(server) == LiveFolder(tmp_path / "live").pointer()
    assert pointer.epoch < 9 == stored_epoch(server)


def stored_epoch(server: RedisServer) -> int:
    pointer = stored_pointer(server)
    assert pointer is not None
    return pointer.epoch


def test_a_version_that_is_not_there_or_does_not_load_changes_nothing(
    newest: LiveVersion, tmp_path: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.flush()
    folder = LiveFolder(tmp_path / "live")
    before = folder.pointer()
    options: list[Any] = ["--live", str(tmp_path / "live"), "--redis", server.url, "--to"]
    folder.delta_file(newest.base, 1).write_bytes(b"damaged")
    for target, said in (
        (f"{newest.base}+4", "no such delta"),
        ("0123456789ab", "no such base"),
        (f"{newest.base}+2", "not a delta"),
        ("the last one", "version 'the last one', expected BASE+N, as in 0123456789ab+17"),
    ):
        assert main([*options, target]) == 78
        assert said in capsys.readouterr().err
    assert folder.pointer() == before
    assert stored_pointer(server) is None


class SilentStore(MemoryStore):
    """A store that may write a pointer and not say so, as one that hangs for a while."""

    is_silent = False

    async def swap_model(self, expected: ModelPointer | None, new: ModelPointer) -> None:
        await super().swap_model(expected, new)
        if self.is_silent:
            raise StoreUnavailable("timed out")


async def test_a_pointer_that_was_written_without_an_answer_is_the_learners_own(
    newest: LiveVersion, tmp_path: Path
) -> None:
    folder, store = LiveFolder(tmp_path / "live"), SilentStore()
    follower = StorePointer(folder)
    await follower.follow(store)
    store.is_silent = True
    folder.move(pointer_to(folder.version(newest.base, 1), epoch=8))
    with pytest.raises(StoreUnavailable):
        await follower.follow(store)
    store.is_silent = False
    folder.move(pointer_to(folder.version(newest.base, 2), epoch=9))
    await follower.follow(store)
    assert (await store.read_model()) == folder.pointer()
    other = pointer_to(folder.version(newest.base, 1), epoch=10)
    await store.swap_model(folder.pointer(), other)  # as a rollback does
    folder.move(pointer_to(newest, epoch=11))
    with pytest.raises(ManifestConflict, match="stays until the learner starts again"):
        await follower.follow(store)
