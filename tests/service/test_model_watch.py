"""Pointers that are followed, refused and tried again, and what a start serves; no process."""

import gc
import shutil
from pathlib import Path

import pytest

from models.errors import InvalidRelease, StoreUnavailable
from models.release.live import LiveFolder, LiveRelease
from models.store.model_pointer import ModelPointer
from service.follow import ArmPlace, ModelWatch, OwnPlace, read_arm, read_own
from service.recommend.engine import Engines
from service.reload import load_arms, load_configured
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import read_metric, toy_engine, toy_release_dir
from tests.fakes.toy_live import add_toy_deltas, pointer_to


class World:
    """A watch over a live folder, its engines, and a clock that stands still."""

    def __init__(self, path: Path) -> None:
        self.folder = LiveFolder(path / "live")
        self.base = LiveRelease.of(self.folder.publish_base(toy_release_dir()))
        self.engines = Engines(toy_engine(), {})
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.now_s = 100.0
        self.settings = ServiceSettings(
            live_dir=self.folder.path, release_dir=toy_release_dir(), history_cache_mb=1
        )
        self.watch = ModelWatch(
            self.settings,
            self.folder,
            read=read_own(self.store, self.folder),
            place=OwnPlace(self.engines),
            metrics=self.metrics,
            monotonic=lambda: self.now_s,
        )

    def num_refused(self) -> float:
        sample = 'thinkahead_model_swaps_total{change="refused",model="own"}'
        return read_metric(self.metrics.render().decode(), sample)

    async def swap(self, pointer: ModelPointer) -> None:
        await self.store.swap_model(await self.store.read_model(), pointer)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_release_serves_until_the_folder_has_a_pointer(world: World) -> None:
    assert await world.watch.look() == "unchanged"
    assert world.engines.own is toy_engine()
    world.folder.move(pointer_to(world.base.version, epoch=1))
    assert await world.watch.look() == "taken"
    assert world.engines.own.live is not None
    assert await world.watch.look() == "unchanged"


async def test_the_pointer_of_the_store_comes_before_that_of_the_folder(world: World) -> None:
    world.folder.move(pointer_to(world.base.version, epoch=1))
    await world.swap(pointer_to(add_toy_deltas(world.folder, world.base, "cw"), epoch=2))
    assert await world.watch.look() == "taken"
    assert world.engines.own.label.endswith("+2")


async def test_counts_share_the_model_and_weights_do_not(world: World) -> None:
    found = []
    world.folder.move(pointer_to(world.base.version, epoch=1))
    version = add_toy_deltas(world.folder, world.base, "cw")
    for number in range(3):
        deltas = world.folder.version(version.base, number)
        await world.swap(pointer_to(deltas, epoch=number + 1))
        assert await world.watch.look() == "taken"
        found.append(world.engines.own)
    base, counts, weights = found
    assert (counts.shares_model(base), weights.shares_model(base)) == (True, False)
    assert (counts.model == base.model, weights.model == base.model) == (True, False)
    state = base.encode([1, 2, 3])
    assert counts.encode([1, 2, 3]) is state
    assert weights.encode([1, 2, 3]) is not state
    assert len({engine.digest for engine in found}) == 1  # cursors go on


async def test_a_refused_pointer_is_tried_again_less_and_less_often(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that arrive after the pointer are followed then."""
    version = add_toy_deltas(world.folder, world.base, "c")
    file = world.folder.delta_file(version.base, 1)
    data = file.read_bytes()
    file.unlink()
    await world.swap(pointer_to(version, epoch=1))
    tries = []
    for _ in range(100):
        before = world.num_refused()
        await world.watch.look()
        tries += [world.now_s] if world.num_refused() > before else []
        world.now_s += 1
    assert tries == [100, 101, 103, 107, 115, 131, 163]
    assert caplog.text.count("model pointer refused") == 1
    file.write_bytes(data)
    assert await world.watch.look() == "unchanged"
    assert await world.watch.look(is_forced=True) == "taken"
    assert world.watch.refusal is None


async def test_a_base_takes_over_without_a_full_collection_of_garbage(world: World) -> None:
    """One stopped requests for 100 ms."""
    generations = []

    def note(phase: str, info: dict[str, int]) -> None:
        generations.append(info["generation"])

    await world.swap(pointer_to(world.base.version, epoch=1))
    gc.disable()
    gc.callbacks.append(note)
    try:
        assert await world.watch.look() == "taken"
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert generations == []


async def test_an_epoch_that_does_not_rise_is_refused(world: World) -> None:
    version = add_toy_deltas(world.folder, world.base, "cc")
    await world.swap(pointer_to(version, epoch=5))
    assert await world.watch.look() == "taken"
    world.store = MemoryStore()
    world.watch._read = read_own(world.store, world.folder)
    await world.swap(pointer_to(world.base.version, epoch=4))
    assert await world.watch.look() == "refused"
    assert world.engines.own.label.endswith("+2")
    assert world.watch.refusal is not None
    assert world.watch.refusal.why == "epoch 4, in use is 5"


async def test_a_store_that_is_away_and_garbage_change_nothing(world: World) -> None:
    await world.swap(pointer_to(world.base.version, epoch=1))
    assert await world.watch.look() == "taken"
    held = world.engines.own

    async def away() -> ModelPointer | None:
        raise StoreUnavailable("away")

    world.watch._read = away
    assert (await world.watch.look(), world.watch.refusal) == ("unchanged", None)
    (world.folder.path / "pointer.json").write_text("{")
    world.watch._read = read_arm(world.folder)
    assert await world.watch.look() == "refused"
    assert world.engines.own is held


async def test_an_arm_takes_no_canary(world: World) -> None:
    version = add_toy_deltas(world.folder, world.base, "w")
    canary = {**version._asdict(), "percent": 50}
    main = pointer_to(world.base.version, epoch=1).model_dump()
    world.folder.move(ModelPointer.model_validate({**main, "canary": canary}))
    experiments = [{"name": "e", "share": 1, "arms": [{"name": "a", "release": world.folder.path}]}]
    settings = ServiceSettings.model_validate(
        {"release_dir": toy_release_dir(), "experiments": experiments}
    )
    engines = Engines(toy_engine(), load_arms(settings, toy_engine()))
    arm = ModelWatch(
        settings,
        world.folder,
        read=read_arm(world.folder),
        place=ArmPlace(engines, world.folder.path),
        metrics=world.metrics,
    )
    assert await arm.look() == "taken"
    assert engines.of(world.folder.path, "user").engine.label == world.base.label
    assert (engines.canary, engines.of(None, "user").engine) == (None, toy_engine())


def test_a_start_falls_back_to_the_release(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Without a release it ends, in one line."""
    version = add_toy_deltas(world.folder, world.base, "c")
    world.folder.move(pointer_to(version, epoch=1))
    assert load_configured(world.settings).label == f"{world.base.label}+1"
    world.folder.delta_file(version.base, 1).write_bytes(b"")
    assert load_configured(world.settings).label == toy_engine().label
    assert "serves instead of the live folder" in caplog.text
    alone = ServiceSettings(live_dir=world.folder.path)
    with pytest.raises(InvalidRelease, match="000001"):
        load_configured(alone)
    shutil.rmtree(world.folder.path)
    with pytest.raises(InvalidRelease, match=r"no pointer.json, expected one, or a release_dir"):
        load_configured(alone)
