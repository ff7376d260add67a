"""The ladder over HTTP and a real Redis: the rung that answers, and its scores."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from models.catalog.candidates import Candidates
from models.online.best_first import NumpySearch
from models.online.finish import Finisher, KeptHistory
from models.online.torch_runtime import TorchRuntime
from models.store.keys import DEFAULT_KEYS
from models.store.redis_store import RedisStore
from service.recommend.climb import Climb, RungTimes
from service.recommend.engine import Engine
from service.recommend.ladder import Wanted, plan_rungs
from service.sources import Mode, Reason
from service.users.reader import UserView
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    RedisServer,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    scores_of,
    serving,
    some_prefixes,
    toy_engine,
    until_ready,
)
from tests.fakes.toy import toy_recommender

NEWER = GENERATION + 1


@pytest.fixture
async def store(server: RedisServer) -> RedisStore:
    server.flush()
    return RedisStore(server.url, timeout_ms=10_000)


@pytest.fixture
async def users(store: RedisStore) -> None:
    await activate(store, NEWER, GENERATION)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"online_prefixes": 5}


async def fallbacks(service: InProcess, reason: Reason) -> float:
    return await service.metric(f'thinkahead_fallbacks_total{{reason="{reason}"}}')


async def test_a_record_is_finished_exactly_and_each_item_names_its_path(
    service: InProcess, store: RedisStore
) -> None:
    history = item_ids(3)
    await give_history(store, "user", history)
    await give_record(store, "user", new_record(prefixes=some_prefixes(4)))
    answer = await service.recommend("user", n=8)
    expected = scores_of(history, some_prefixes(4))[:8]
    assert [item["item_id"] for item in answer["items"]] == [item_id for item_id, _ in expected]
    scores = [item["score"] for item in answer["items"]]
    assert np.allclose(scores, [score for _, score in expected], atol=1e-5)
    for item in answer["items"]:
        assert some_prefixes(4)[item["path"]] == tuple(item["sid"][:2])
    assert (answer["source"], answer["degraded"]) == ("personal", False)
    assert answer["generation"]["id"] == GENERATION
    assert 60 <= answer["generation"]["age_s"] < 120


async def test_the_newest_live_layer_with_a_record_wins(
    service: InProcess, store: RedisStore
) -> None:
    await give_record(store, "user", new_record(generation=GENERATION))
    await give_record(store, "user", new_record(generation=NEWER))
    assert (await service.recommend("user"))["generation"]["id"] == NEWER


async def test_an_over_age_record_is_stale(service: InProcess, store: RedisStore) -> None:
    await give_record(store, "user", new_record(age_s=49 * 3600))
    answer = await service.recommend("user", n=3)
    assert (answer["source"], answer["degraded"]) == ("stale", True)
    assert answer["items"][0]["source"] == "stale"
    assert answer["items"][0]["path"] is not None
    assert await fallbacks(service, Reason.OVER_AGE) == 1


async def test_a_record_behind_an_unreadable_one_is_stale(
    service: InProcess, store: RedisStore, server: RedisServer
) -> None:
    await give_record(store, "user", new_record())
    server.write(DEFAULT_KEYS.record("user", NEWER), b"\x00garbage")
    answer = await service.recommend("user")
    assert (answer["source"], answer["degraded"]) == ("stale", True)
    assert answer["generation"]["id"] == GENERATION
    assert await fallbacks(service, Reason.CORRUPT) == 1


async def test_another_users_record_is_never_served(
    service: InProcess, store: RedisStore, server: RedisServer
) -> None:
    record = new_record(generation=NEWER)
    server.write(DEFAULT_KEYS.record("user", NEWER), record.encode("somebody else"))
    answer = await service.recommend("user")
    assert (answer["source"], answer["degraded"], answer["generation"]) == ("global", True, None)
    assert await fallbacks(service, Reason.FOREIGN) == 1


async def test_an_unreadable_record_leaves_the_process_its_last_good_copy(
    service: InProcess, store: RedisStore, server: RedisServer
) -> None:
    await give_record(store, "user", new_record())
    assert (await service.recommend("user"))["source"] == "personal"
    server.write(DEFAULT_KEYS.record("user", GENERATION), b"\x00garbage")
    for _ in range(2):
        answer = await service.recommend("user")
        assert (answer["source"], answer["generation"]["id"]) == ("stale", GENERATION)


async def test_a_history_of_another_type_is_counted_and_costs_only_the_history(
    service: InProcess, store: RedisStore, server: RedisServer
) -> None:
    await give_record(store, "user", new_record())
    server.write("ta:{user}:h", b"no stream")
    answer = await service.recommend("user")
    assert (answer["source"], answer["degraded"]) == ("personal", True)
    assert await fallbacks(service, Reason.LOST_HISTORY) == 1


async def test_a_history_without_a_record_is_online_and_that_is_no_degradation(
    service: InProcess, store: RedisStore
) -> None:
    history = item_ids(4)
    await give_history(store, "user", history)
    answer = await service.recommend("user", n=5)
    engine = toy_engine()
    rows = engine.catalog.rows(history)
    nodes = engine.finisher.rank_prefixes(engine.finisher.encode(rows), count=5)
    own = [tuple(codes) for codes in engine.catalog.trie.prefixes()[nodes].tolist()]
    expected = [item_id for item_id, _ in scores_of(history, own)]
    assert [item["item_id"] for item in answer["items"]] == expected[:5]
    assert (answer["source"], answer["degraded"], answer["generation"]) == ("online", False, None)
    assert all(item["path"] is None for item in answer["items"])
    assert await fallbacks(service, Reason.NO_RECORD) == 1


async def test_an_unknown_user_gets_the_global_prefixes(service: InProcess) -> None:
    answer = await service.recommend("nobody")
    assert (answer["source"], answer["degraded"]) == ("global", False)
    assert len(answer["items"]) == 10
    assert await fallbacks(service, Reason.NO_HISTORY) == 1


async def test_a_history_of_unknown_items_counts_as_none(
    service: InProcess, store: RedisStore
) -> None:
    await give_history(store, "user", ["not-in-this-catalog"])
    assert (await service.recommend("user"))["source"] == "global"


async def test_a_short_rung_is_topped_up_and_every_item_says_from_where(
    service: InProcess, store: RedisStore
) -> None:
    history = item_ids(3)
    await give_history(store, "user", history)
    await give_record(store, "user", new_record(prefixes=some_prefixes(1)))
    answer = await service.recommend("user", n=100)
    sources = [item["source"] for item in answer["items"]]
    num_personal = len(scores_of(history, some_prefixes(1)))
    assert sources[:num_personal] == ["personal"] * num_personal
    assert "online" in sources
    assert sources[-1] == "global"
    assert sources == sorted(sources, key=["personal", "online", "global"].index)
    assert (answer["source"], answer["degraded"], len(sources)) == ("personal", False, 100)
    assert [item["rank"] for item in answer["items"]] == list(range(1, 101))
    assert await fallbacks(service, Reason.SHORT) == 2


@pytest.mark.parametrize("seed", range(20))
async def test_no_answer_repeats_an_item_or_holds_one_of_the_history(
    service: InProcess, store: RedisStore, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    catalog = toy_engine().catalog
    rows = rng.choice(len(catalog), size=rng.integers(0, 60), replace=False)
    history = [catalog.item_ids[row] for row in rows]
    table = catalog.trie.prefixes()
    picked = rng.choice(len(table), size=rng.integers(0, 12), replace=False)
    user = f"user-{seed}"
    await give_history(store, user, history)
    await give_record(
        store, user, new_record(prefixes=[tuple(table[at].tolist()) for at in picked])
    )
    answer = await service.recommend(user, n=100)
    items = [item["item_id"] for item in answer["items"]]
    assert len(items) == len(set(items)) == 100
    assert not set(items) & set(history)
    for item in answer["items"]:
        row = catalog.row(item["item_id"])
        assert row is not None
        assert catalog.sids[row].tolist() == item["sid"]


async def test_seen_items_come_back_when_asked_for(service: InProcess, store: RedisStore) -> None:
    seen = scores_of([], some_prefixes(4))[0][0]
    await give_history(store, "user", [seen])
    await give_record(store, "user", new_record(prefixes=some_prefixes(4)))
    answers = [
        await service.recommend("user", n=100, exclude_seen=str(exclude_seen).lower())
        for exclude_seen in (True, False)
    ]
    seen_in = [seen in [item["item_id"] for item in answer["items"]] for answer in answers]
    assert seen_in == [False, True]


async def test_a_budget_that_is_spent_gives_the_popular_list(store: RedisStore) -> None:
    await activate(store, GENERATION)
    await give_record(store, "user", new_record())
    async with serving(store) as service:
        answer = await service.recommend("user", timeout_ms=1, n=5)  # all of it is reserved
        popular = toy_engine().release.popular[:5]
        assert [item["item_id"] for item in answer["items"]] == list(popular)
        assert (answer["source"], answer["degraded"]) == ("popular", True)
        assert answer["items"][0]["score"] is None
        assert await fallbacks(service, Reason.NO_TIME) == 2  # of the store and of the model


class GatedFinisher(Finisher):
    """Holds every search for own prefixes while the gate is closed."""

    def __init__(self) -> None:
        catalog = toy_engine().catalog
        super().__init__(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog)
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def own_prefixes(self, state: KeptHistory, *, count: int) -> Candidates:
        self.reached.set()
        self.gate.wait(timeout=60)
        return super().own_prefixes(state, count=count)


@pytest.fixture
def gated() -> Iterator[GatedFinisher]:
    finisher = GatedFinisher()
    yield finisher
    finisher.gate.set()


@pytest.mark.system
async def test_what_was_found_before_the_deadline_is_kept(
    store: RedisStore, gated: GatedFinisher
) -> None:
    await activate(store, GENERATION)
    await give_history(store, "user", item_ids(1))
    await give_record(store, "user", new_record(prefixes=some_prefixes(1)))
    engine = Engine(toy_engine().release, gated)
    async with serving(store, engine=engine, request_budget_ms=3000) as service:
        await until_ready(service)
        gated.gate.clear()
        answer = await service.recommend("user", n=20)
        gated.gate.set()
        sources = {item["source"] for item in answer["items"]}
        assert (answer["source"], sources) == ("personal", {"personal", "popular"})
        assert answer["timings_ms"]["finish"] > 1000


@pytest.mark.system
async def test_a_queue_full_of_what_nobody_waits_for_gives_the_popular_list_at_once(
    store: RedisStore, gated: GatedFinisher
) -> None:
    await give_history(store, "user", item_ids(1))
    engine = Engine(toy_engine().release, gated)
    async with serving(store, engine=engine, queue_limit=1) as service:
        await until_ready(service)
        gated.gate.clear()
        for _ in range(2):  # one on the thread, one in the queue
            given_up = await service.recommend("user", timeout_ms=1000)
            assert given_up["source"] == "popular"
        began_at = time.monotonic()
        shed = await service.recommend("user")
        assert time.monotonic() - began_at < 10
        assert (shed["source"], shed["degraded"]) == ("popular", True)
        assert await fallbacks(service, Reason.QUEUE_FULL) == 1
        gated.gate.set()


async def test_beyond_the_limit_neither_store_nor_model_is_asked(
    store: RedisStore, gated: GatedFinisher
) -> None:
    await give_history(store, "user", item_ids(1))
    engine = Engine(toy_engine().release, gated)
    async with serving(store, engine=engine, queue_limit=1) as service:
        await until_ready(service)
        gated.gate.clear()
        gated.reached.clear()
        waiting = asyncio.create_task(service.recommend("user"))
        await asyncio.to_thread(gated.reached.wait, 60)
        assert await service.metric("thinkahead_saturation") == 1
        hidden = toy_engine().release.popular[0]
        shed = await service.recommend("user", n=5, exclude=hidden)
        expected = list(toy_engine().release.popular[1:6])
        assert [item["item_id"] for item in shed["items"]] == expected
        assert (shed["source"], shed["degraded"]) == ("popular", True)
        assert (shed["timings_ms"]["queue"], shed["timings_ms"]["finish"]) == (0, 0)
        assert await fallbacks(service, Reason.OVERLOAD) == 1
        gated.gate.set()
        assert (await waiting)["source"] == "online"
        assert await service.metric("thinkahead_in_work") == 0
        assert (await service.recommend("user"))["source"] == "online"


class FailingFinisher(Finisher):
    def encode(self, rows: Sequence[int]) -> KeptHistory:
        raise RuntimeError("a bug")


async def test_a_finish_that_raises_is_logged_and_gives_the_popular_list(
    store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = toy_engine().catalog
    engine = Engine(
        toy_engine().release,
        FailingFinisher(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog),
    )
    async with serving(store, engine=engine) as service:
        answer = await service.recommend("user")
        assert (answer["source"], answer["degraded"]) == ("popular", True)
        assert await fallbacks(service, Reason.FINISH) == 1
    assert "a bug" in caplog.text


async def test_a_model_of_nothing_but_nan_gives_the_popular_list(store: RedisStore) -> None:
    await activate(store, GENERATION)
    await give_record(store, "user", new_record())
    release, broken = toy_engine().release, toy_recommender(toy_engine().catalog)
    with torch.no_grad():
        broken.start.fill_(torch.nan)
    engine = Engine(release, Finisher(NumpySearch(TorchRuntime(broken)), release.catalog))
    async with serving(store, engine=engine) as service:
        answer = await service.recommend("user")
        assert (answer["source"], answer["degraded"]) == ("popular", True)
        assert await fallbacks(service, Reason.EMPTY) == 2
        not_ready = await service.client.get("/health/ready")
        assert not_ready.status_code == 503
        assert "no item is found below the global prefixes" in not_ready.json()["detail"]


async def test_a_record_from_the_future_is_fresh_and_counted(
    service: InProcess, store: RedisStore
) -> None:
    await give_record(store, "user", new_record(age_s=-3600))
    answer = await service.recommend("user")
    assert (answer["source"], answer["generation"]["age_s"]) == ("personal", 0)
    assert await service.metric("thinkahead_future_records_total") == 1


def test_a_climb_without_time_touches_no_model() -> None:
    plan = plan_rungs(UserView((), new_record()), toy_engine(), is_over_age=False)
    wanted = Wanted(5, frozenset(), category=None, mode=Mode.STRICT, num_own=5)
    climb = Climb(plan, toy_engine(), wanted, times=RungTimes(), clock=lambda: 7.0)
    climb.run(7.0)
    assert (climb.picks, climb.reasons) == ([], [Reason.NO_TIME])
