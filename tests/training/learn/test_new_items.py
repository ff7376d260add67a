"""New and withdrawn items: scores before the first step, the lists of similar items, the feed."""

import asyncio
import json
import threading
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from models.catalog.candidates import Candidates
from models.catalog.fed_items import FedItem
from models.online.finish import Finisher
from models.online.memory.similar_items import SimilarItems
from models.online.recommender import KnownNodes
from models.online.torch_runtime import fastest_searcher
from models.release.live import load_live
from models.release.release import Release
from tests.fakes.toy_learner import SLICE_MS, ToyWork, finish, logged, toy_events
from training.learn.feed import FeedBatches
from training.learn.item_growth import grow_similar
from training.learn.new_items import ItemGrower
from training.learn.online_learner import OnlineLearner

NEW = FedItem(item_id="new", title="Title of item-3", categories=("Beauty",))


def units(num: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).normal(size=(num, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_similar_items_of_a_grown_catalog_are_those_of_a_new_search() -> None:
    vectors, num_similar = units(30), 5
    is_old = np.ones(30, dtype=bool)
    is_old[[4, 17, 29]] = False
    old = SimilarItems.of(vectors[is_old], num_similar)
    grown = grow_similar(old, np.flatnonzero(is_old), vectors, num_similar)
    anew = SimilarItems.of(vectors, num_similar)
    np.testing.assert_allclose(grown.cosine_NS, anew.cosine_NS, atol=1e-6)
    is_there = anew.cosine_NS > 0
    assert grown.row_NS[is_there].tolist() == anew.row_NS[is_there].tolist()


def test_a_withdrawn_item_is_like_no_other() -> None:
    vectors = units(10)
    old = SimilarItems.of(vectors, 9)
    shrunk = grow_similar(old, np.arange(10) - 1, vectors[1:], 9)
    assert not shrunk.cosine_NS[:, -1].any()
    assert shrunk.row_NS.max() == 8


def scores(learner: OnlineLearner, history: list[str]) -> dict[str, float]:
    finisher = Finisher(fastest_searcher(learner.weights.candidate.recommender), learner.catalog)
    rows = list(learner.catalog.rows(history))
    found = finisher.finish(finisher.encode(rows), Candidates(learner.catalog.trie), k=500)
    return {learner.catalog.item_ids[item.row]: item.logprob for item in found}


def mean_score_of_buyers(work: ToyWork, learner: OnlineLearner) -> float:
    """Return the mean score of the new item for those who will have it."""
    histories = (work.dataset.histories[f"user-{at}"] for at in range(9))
    found = [scores(learner, [each.item_id for each in history]) for history in histories]
    return float(np.mean([score["new"] for score in found]))


def test_a_fed_item_is_served_and_learnt(release: Release, tmp_path: Path) -> None:
    work = ToyWork(release, tmp_path)
    (work.items / "today.jsonl").write_bytes(NEW.encode() + b"\n{}\n" + b'{"item_id": "half')
    follower = work.follower()
    follower.start()
    asyncio.run(work.feed.look(None))
    follower.settle(None)
    pointer = work.live.pointer()
    assert pointer is not None
    live = load_live(work.live, pointer.version)
    row = live.release.catalog.row("new")
    assert row is not None
    assert follower.learner.catalog.item_ids == live.release.catalog.item_ids
    before = mean_score_of_buyers(work, follower.learner)
    events = [
        logged(1_000_000 + at, f"user-{at}", "new" if at < 9 else "item-5") for at in range(20)
    ]
    follower.log.append(events)
    follower.take(events)
    finish(follower)
    assert mean_score_of_buyers(work, follower.learner) > before + 0.1
    assert follower.learner.popularity["new"] == 9
    assert len(follower.learner.counts.neighbours_of([row]).neighbour_P)


def test_a_new_item_has_a_row_of_its_own_after_its_fifth_event(
    release: Release, tmp_path: Path
) -> None:
    work = ToyWork(release, tmp_path)
    follower = work.follower()
    follower.start()
    feed(work, "new")
    follower.settle(None)
    for num_events, has_own in ((4, False), (1, True)):
        start_ms = 1_000_000 + SLICE_MS * num_events
        events = [
            logged(start_ms + at, f"user-{at}", "new" if at < num_events else "item-5")
            for at in range(10)
        ]
        follower.log.append(events)
        follower.take(events)
        finish(follower)
        learner = follower.learner
        row = learner.catalog.row("new")
        assert row is not None
        nodes = cast("KnownNodes", learner.weights.candidate.recommender.node_embeddings[-1])
        packed = learner.catalog.space.pack(learner.catalog.sids[[row]])
        assert bool(nodes(torch.from_numpy(packed)).any()) == has_own
        assert nodes(torch.from_numpy(learner.catalog.space.pack(learner.catalog.sids))).any()


def test_growing_changes_no_probability_of_other_paths(release: Release, tmp_path: Path) -> None:
    work = ToyWork(release, tmp_path)
    follower = work.learn(toy_events(release.catalog, 30))
    before = scores(follower.learner, ["item-1", "item-2"])
    (work.items / "today.jsonl").write_bytes(NEW.encode() + b"\n")
    asyncio.run(work.feed.look(None))
    follower.settle(None)
    after = scores(follower.learner, ["item-1", "item-2"])
    learner = follower.learner
    sid = learner.catalog.sids[learner.catalog.row("new") or 0]
    others = {
        item
        for item, row in zip(learner.catalog.item_ids, learner.catalog.sids, strict=True)
        if row[0] != sid[0]
    }
    assert after.keys() - before.keys() == {"new"}
    assert all(after[item] == before[item] for item in others)


def test_a_withdrawn_item_leaves_the_live_catalog(release: Release, tmp_path: Path) -> None:
    work = ToyWork(release, tmp_path)
    gone = FedItem(item_id="item-5", withdrawn=True)
    (work.items / "today.jsonl").write_bytes(gone.encode() + b"\n")
    follower = work.follower()
    follower.start()
    asyncio.run(work.feed.look(None))
    follower.settle(None)
    follower = work.learn(toy_events(release.catalog, 30))  # also after a new start
    pointer = work.live.pointer()
    assert pointer is not None
    assert load_live(work.live, pointer.version).release.catalog.row("item-5") is None


def test_the_neighbours_of_the_next_exam_know_what_came_and_left(
    release: Release, tmp_path: Path
) -> None:
    work = ToyWork(release, tmp_path)
    gone = FedItem(item_id="item-5", withdrawn=True)
    (work.items / "today.jsonl").write_bytes(NEW.encode() + b"\n" + gone.encode() + b"\n")
    follower = work.follower()
    follower.start()
    asyncio.run(work.feed.look(None))
    follower.settle(None)
    learner = follower.learner
    assert learner.catalog.row("new") is not None
    assert learner.catalog.row("item-5") is None
    found, expected = learner.neighbours, learner.counts.neighbours()
    assert found.first.tolist() == expected.first.tolist()
    assert found.neighbour_P.tolist() == expected.neighbour_P.tolist()


def test_a_feed_is_read_once_and_a_bad_line_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, work = tmp_path / "items", tmp_path / "work"
    folder.mkdir()
    pq.write_table(pa.table({"item_id": ["a"], "title": ["A"]}), folder / "a.parquet")
    (folder / "b.jsonl").write_text('{"item_id": "b"}\nno JSON\n{"item_id": "c"')
    for _ in range(2):
        feed = FeedBatches(work, folder)
        asyncio.run(feed.look(None))
    with (folder / "b.jsonl").open("a") as stream:
        stream.write("}\n")
    asyncio.run(feed.look(None))
    batches = [[item.item_id for item in feed.batch(number)] for number in (1, 2)]
    assert feed.num_batches == 2
    assert batches == [["a", "b"], ["c"]]
    assert "b.jsonl: a line is skipped" in caplog.text


def test_a_batch_is_on_disk_as_it_was_fed(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "a.jsonl").write_bytes(NEW.encode() + b"\n")
    feed = FeedBatches(tmp_path / "work", tmp_path / "items")
    asyncio.run(feed.look(None))
    assert json.loads((tmp_path / "work" / "000001.json").read_text())["read"]["files"]
    assert feed.batch(1) == [NEW]


def test_events_are_counted_while_the_first_item_waits_for_its_grower(
    release: Release, tmp_path: Path
) -> None:
    work = ToyWork(release, tmp_path)
    (work.items / "today.jsonl").write_bytes(NEW.encode() + b"\n")
    follower, is_ready = work.follower(), threading.Event()
    make = work.growth._make_grower

    def make_slowly() -> ItemGrower:
        assert is_ready.wait(30)
        return make()

    work.growth._make_grower = make_slowly
    follower.start()
    asyncio.run(work.feed.look(None))
    events = toy_events(release.catalog, 20)
    follower.log.append(events)
    follower.take(events)
    end_ms = events[-1].arrived_ms + 10 * SLICE_MS
    follower.settle(end_ms)
    assert follower.learner.counts.touched().size or follower.learner.num_slices
    assert follower.learner.catalog.row("new") is None
    is_ready.set()
    while follower.learner.catalog.row("new") is None:
        follower.settle(end_ms)


def test_items_that_come_soon_after_others_share_a_base(release: Release, tmp_path: Path) -> None:
    """Counts go on as deltas meanwhile."""
    work = ToyWork(release, tmp_path)
    follower = work.follower(items_every_s=1e9)
    follower.start()
    feed(work, "first")
    follower.settle(None)
    assert follower.learner.catalog.row("first") is not None
    base = base_of(work)
    for name in ("second", "third"):
        feed(work, name)
        follower.settle(1)
    events = toy_events(release.catalog, 5)
    follower.log.append(events)
    follower.take(events)
    follower.publish()
    assert follower.learner.catalog.row("second") is None
    assert base_of(work) == base
    work.growth._every_s = 0.0
    follower.settle(events[-1].arrived_ms + SLICE_MS)
    finish(follower)
    assert follower.learner.catalog.row("third") is not None
    assert len(work.live.bases()) == 3  # the release, and one for each turn


def feed(work: ToyWork, name: str) -> None:
    item = NEW.model_copy(update={"item_id": name})
    (work.items / f"{name}.jsonl").write_bytes(item.encode() + b"\n")
    asyncio.run(work.feed.look(None))


def base_of(work: ToyWork) -> str:
    pointer = work.live.pointer()
    assert pointer is not None
    return pointer.base
