"""Another reasoner in a live folder, beside a learner that goes on publishing."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.catalog.fed_items import FedItem
from models.errors import ManifestConflict
from models.release.live import has_same_online_part, load_live, resolve_release
from models.release.release import Release
from models.store.model_pointer import LiveVersion, ModelPointer
from models.store.redis_store import RedisStore
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_learner import ToyWork, finish, toy_events, write_toy_data
from training.learn.follower import Follower
from training.reasoner_day.cli import main
from training.reasoner_day.reasoner_learner import reasoner_files
from training.reasoner_day.reasoner_release import publish_base


@pytest.fixture
def work(release: Release, tmp_path: Path) -> ToyWork:
    return ToyWork(release, tmp_path)


@pytest.fixture
def learnt_on(release: Release, tmp_path: Path) -> Path:
    """A reasoner with other bytes."""
    directory = tmp_path / "reasoner"
    shutil.copytree(release.reasoner_dir, directory)
    (directory / "learnt_on.json").write_text("{}")
    return directory


def swap(work: ToyWork, reasoner: Path, start: Release | None = None) -> LiveVersion:
    day = {"until": "1-0", "events": 7}
    start = start or Release.load(resolve_release(work.live.path))
    draft = work.folder / "draft"
    return publish_base(work.live, start, reasoner, day, draft, keep_bases=5, now_ms=5)


def served(work: ToyWork) -> Release:
    return Release.load(resolve_release(work.live.path))


def go_on(follower: Follower, work: ToyWork, seed: int) -> None:
    events = toy_events(work.release.catalog, 20, seed=seed, start_ms=10**8 * seed)
    follower.log.append(events)
    follower.take(events)
    finish(follower)


def test_the_online_part_stays_and_a_running_learner_goes_on_upon_it(
    work: ToyWork, release: Release, learnt_on: Path
) -> None:
    follower = work.learn(toy_events(release.catalog, 45))
    before = work.live.pointer()
    assert before is not None
    assert before.deltas > 1
    version = swap(work, learnt_on)
    pointer = work.live.pointer()
    assert pointer is not None
    assert (pointer.version, pointer.deltas) == (version, 1)
    assert pointer.watermark == before.watermark
    one, other = (load_live(work.live, each.version) for each in (before, pointer))
    assert has_same_online_part(one, other)
    assert "reasoner/learnt_on.json" in reasoner_files(other.release)
    go_on(follower, work, seed=2)
    after = work.live.pointer()
    assert after is not None
    assert after.base == version.base
    assert after.deltas > 1
    # New items need a base of the learner; it keeps the reasoner, also after a new start.
    restarted = work.follower()
    restarted.start()
    item = FedItem(item_id="new", title="Title of item-3", categories=("Beauty",))
    (work.items / "today.jsonl").write_bytes(item.encode() + b"\n")
    asyncio.run(work.feed.look(None))
    restarted.settle(None)
    finish(restarted)
    grown = served(work)
    assert grown.catalog.row("new") is not None
    assert "reasoner/learnt_on.json" in reasoner_files(grown)
    assert grown.manifest.recipe["reasoner_day"]["until"] == "1-0"


def test_a_base_that_was_written_before_the_swap_takes_the_reasoner_over(
    work: ToyWork, release: Release, learnt_on: Path
) -> None:
    follower = work.learn(toy_events(release.catalog, 20))
    draft = work.folder / "grown"
    shutil.copytree(served(work).directory, draft)
    swap(work, learnt_on)
    publisher = follower._publisher
    with pytest.raises(ManifestConflict, match="another reasoner was published"):
        publisher.publish_base(draft, "1-0", now_ms=1)
    assert "reasoner/learnt_on.json" in reasoner_files(publisher.source(release))
    publisher.publish_base(served(work).directory, "1-0", now_ms=1)


def test_a_reasoner_that_another_one_overtook_is_not_published(
    work: ToyWork, release: Release, learnt_on: Path
) -> None:
    work.learn(toy_events(release.catalog, 20))
    start = served(work)
    swap(work, learnt_on)
    held = work.live.pointer()
    with pytest.raises(ManifestConflict, match="another reasoner than"):
        swap(work, learnt_on, start=replace(start))
    assert work.live.pointer() == held


def test_the_store_follows_the_folder_also_when_a_day_has_nothing_to_learn(
    work: ToyWork, learnt_on: Path, tmp_path: Path, server: RedisServer, capsys: Any
) -> None:
    """A kill between the two pointers leaves this behind."""
    server.flush()
    work.learn(toy_events(work.release.catalog, 20))
    swap(work, learnt_on)
    write_toy_data(work.dataset, tmp_path / "data")
    options = ["--live", str(work.live.path), "--data", str(tmp_path / "data")]
    options += ["--log", str(work.work / "log"), "--work", str(tmp_path / "day")]
    assert main([*options, "--since", "1015000-0", "--redis", server.url]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "nothing"

    async def stored() -> ModelPointer | None:
        store = RedisStore(server.url, 5000)
        try:
            return await store.read_model()
        finally:
            await store.close()

    pointer, held = asyncio.run(stored()), work.live.pointer()
    assert pointer is not None
    assert held is not None
    assert pointer.version == held.version
