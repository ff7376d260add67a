"""Histories of 256 items in both tiers, from `training all` to answers."""

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import InvalidSettings
from models.online.torch_runtime import load_recommender
from models.reasoner.think import UserHistory, items_read, think_users
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from models.release.searchers import load_finisher
from models.store.events import HISTORY_LIMIT, Event
from models.store.redis_store import RedisStore
from offline.plan.due import to_due_user
from tests.fakes.service_harness import RedisServer, ServiceProcess, give_history
from training.cli import main
from training.learn.candidate import Anchor, Candidate
from training.learn.lazy_adam import Rates
from training.learn.weight_steps import LearntEvents, StepSettings, learn_events
from training.recipe import load_recipe
from training.run import Run

NUM_USERS, NUM_ITEMS = 220, 400
LONG = 300  # items of every eleventh user; the store keeps 256 of them


def write_long(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"user-{user}", "item_id": f"item-{item}", "pos": pos, "timestamp": pos}
        for user in range(NUM_USERS)
        for pos, item in enumerate(
            (int(rng.integers(NUM_ITEMS)) + np.arange(6 if user % 11 else LONG)) % NUM_ITEMS
        )
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    ids = [f"item-{item}" for item in range(NUM_ITEMS)]
    topics = [f"All > Topic {item // 20} > Shelf {item // 5}" for item in range(NUM_ITEMS)]
    pq.write_table(pa.table({"item_id": ids, "categories": topics}), folder / "items.parquet")
    return folder


def write_recipe(folder: Path, *, window: int = 256, history: int = 256) -> Path:
    tiny = Path("training/runs/tiny.toml").read_text()
    tiny = tiny.replace("[recommender]", f"[recommender]\nwindow = {window}")
    file = folder / "long.toml"
    file.write_text(f"{tiny}\n[reasoner]\nhistory = {history}\n")
    return file


def give(server: RedisServer, items: list[str]) -> None:
    async def append() -> None:
        store = RedisStore(server.url, 5000)
        try:
            await give_history(store, "somebody", items)
        finally:
            await store.close()

    asyncio.run(append())


def test_a_length_that_no_stored_history_has_is_refused(tmp_path: Path) -> None:
    for key in ("window", "history"):
        file = write_recipe(tmp_path, **{key: 257})
        with pytest.raises(InvalidSettings, match=f"{key} 257, expected 1 to 256"):
            load_recipe(file)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_tiers_read_256_items_from_training_to_answers(
    own_server: RedisServer, tmp_path: Path
) -> None:
    data, recipe = write_long(tmp_path / "data"), write_recipe(tmp_path)
    options = ["--data", str(data), "--out", str(tmp_path / "long"), "--config", str(recipe)]
    assert main(["all", *options, "--force", "--learns", "held-out"]) == 0
    release = Release.load(tmp_path / "long")
    assert release.recommender_config.window == items_read(release.manifest.recipe) == 256
    run = Run.open(data, tmp_path / "long.work", str(recipe), seed=0)
    assert run.teacher_dir(run.learns).name.endswith("_256")

    # The night reads 256 items, also of a longer history.
    items = [f"item-{at}" for at in range(HISTORY_LIMIT)]
    events = [Event(item, at, f"e{at}") for at, item in enumerate(items)]
    due = to_due_user(release, "[]", "somebody", events)
    assert due is not None
    assert due.history.rows == release.catalog.rows(items)
    reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    short = UserHistory("somebody", due.history.rows[-50:])
    whole, cut = (
        think_users(reasoner, release.catalog, [user], paths=1, width=4, seeds=[0])
        for user in (due.history, short)
    )
    assert whole[0].tokens > 0
    assert [each.logprob for each in whole[0].prefixes] != [
        each.logprob for each in cut[0].prefixes
    ]

    # A learner learns a new event behind 255 items.
    recommender = load_recommender(release.directory, release.recommender_config)
    candidate = Candidate.new(Anchor(recommender), Rates())
    losses = learn_events(
        candidate.recommender, candidate.optimizer, release.catalog,
        [LearntEvents(due.history.rows, (1.0,))], [], StepSettings(passes=2), seed=0,
    )  # fmt: skip
    assert losses[1] < losses[0]

    # The service encodes all 256 items that the store keeps.
    give(own_server, items)
    finisher = load_finisher(release)
    rows = list(due.history.rows)
    found = finisher.finish(
        finisher.encode(rows), finisher.own_prefixes(finisher.encode(rows), count=100), k=10,
        exclude=rows,
    )  # fmt: skip
    with ServiceProcess(
        "--release", str(release.directory), "--redis", own_server.url,
        environ={"THINKAHEAD_REQUEST_BUDGET_MS": "20000", "THINKAHEAD_ONLINE_PREFIXES": "100"},
    ) as service:  # fmt: skip
        answer = httpx.get(f"{service.url}/recommend/somebody?n=10", timeout=30).json()
        assert answer["source"] == "online"
        scores = {item["item_id"]: item["score"] for item in answer["items"]}
        expected = {release.catalog.item_ids[one.row]: one.score for one in found}
        assert scores == pytest.approx(expected, abs=1e-5)
        assert service.stop() == 0
