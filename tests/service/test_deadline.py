"""Deadlines of answers: their sources, and the rungs that are given up for them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from models.catalog.candidates import Candidates
from models.online.best_first import NumpySearch
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import window_start
from models.online.torch_runtime import TorchRuntime
from service.recommend.climb import RungTimes
from service.recommend.engine import Engine
from service.sources import Reason, Source
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
    some_prefixes,
    toy_engine,
    until_ready,
)
from tests.fakes.toy import toy_recommender

pytestmark = pytest.mark.system


class SlowFinisher(Finisher):
    """Takes a while to find prefixes of its own; the rungs that have theirs are fast."""

    def __init__(self, delay_s: float) -> None:
        catalog = toy_engine().catalog
        super().__init__(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog)
        self.delay_s = 0.0
        self.num_searches = 0
        self._delay_s = delay_s
        self._is_over = threading.Event()

    def slow_down(self) -> None:
        self.delay_s = self._delay_s

    def end(self) -> None:
        """End every delay: no test has to wait for the search that it gave up."""
        self._is_over.set()

    def own_prefixes(self, state: KeptHistory, *, count: int) -> Candidates:
        self.num_searches += 1
        self._is_over.wait(self.delay_s)
        return super().own_prefixes(state, count=count)


@pytest.fixture
def finisher() -> SlowFinisher:
    return SlowFinisher(delay_s=2.0)


@pytest.fixture
async def users(store: MemoryStore) -> None:
    await give_history(store, "online", item_ids(3))
    await give_record(store, "personal", new_record(prefixes=some_prefixes(1)))
    await give_history(store, "personal", item_ids(3))
    await activate(store, GENERATION)


@pytest.fixture
def engine(finisher: SlowFinisher) -> Engine:
    return Engine(toy_engine().release, finisher)


@pytest.fixture
async def service(service: InProcess, finisher: SlowFinisher) -> AsyncIterator[InProcess]:
    finisher.slow_down()
    yield service
    finisher.end()


async def ask(service: InProcess, user: str, *, timeout_ms: int, n: int = 10) -> tuple[str, float]:
    """Source of the answer, and the seconds that it took."""
    began_at = time.monotonic()
    answer = await service.recommend(user, timeout_ms=timeout_ms, n=n)
    assert len(answer["items"]) == n
    return answer["source"], time.monotonic() - began_at


async def test_an_answer_comes_within_the_callers_time_even_from_a_model_that_is_slow(
    service: InProcess,
) -> None:
    source, seconds = await ask(service, "online", timeout_ms=500)
    assert source == "popular"
    assert seconds < 1.5  # and not the two seconds that the model takes


async def test_a_rung_known_to_be_slow_is_passed_over_for_a_cheaper_one(
    service: InProcess, finisher: SlowFinisher
) -> None:
    await ask(service, "online", timeout_ms=20_000)
    searched = finisher.num_searches
    for _ in range(3):
        source, seconds = await ask(service, "online", timeout_ms=1000)
        assert (source, seconds < 1.5) == ("global", True)
    assert finisher.num_searches == searched
    answer = await service.recommend("online", timeout_ms=1000)
    assert answer["degraded"] is True
    assert await service.metric(f'thinkahead_fallbacks_total{{reason="{Reason.NO_TIME}"}}') == 4


async def test_a_rung_that_was_slow_once_is_tried_again(
    service: InProcess, finisher: SlowFinisher
) -> None:
    await ask(service, "online", timeout_ms=20_000)
    finisher.delay_s = 0
    sources = [(await ask(service, "online", timeout_ms=1000))[0] for _ in range(60)]
    assert sources[0] == "global"
    assert sources[-1] == "online"


async def test_what_is_found_before_a_slow_rung_is_kept(service: InProcess) -> None:
    await ask(service, "personal", timeout_ms=20_000, n=100)
    answer = await service.recommend("personal", timeout_ms=1000, n=100)
    sources = [item["source"] for item in answer["items"]]
    assert list(dict.fromkeys(sources)) == ["personal", "global"]
    assert answer["degraded"] is False


async def test_the_callers_time_never_lengthens_the_budget(finisher: SlowFinisher) -> None:
    store = MemoryStore()
    await give_history(store, "online", item_ids(3))
    engine = Engine(toy_engine().release, finisher)
    async with serving(store, engine=engine, request_budget_ms=500) as service:
        await until_ready(service)
        finisher.slow_down()
        _, seconds = await ask(service, "online", timeout_ms=60_000)
        assert seconds < 1.5


@pytest.mark.parametrize("value", ["0", "60001", "-5", "soon", "", "1e3", "nan", "\xff"])
async def test_a_bad_timeout_is_422_and_named(service: InProcess, value: str) -> None:
    headers = [(b"x-request-timeout-ms", value.encode("latin-1"))]
    answer = await service.client.get("/recommend/user", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "header.X-Request-Timeout-Ms"


class SlowStore(MemoryStore):
    """Takes its time to read a user."""

    delay_s = 0.0

    async def before_read(self, user_id: str) -> None:
        await asyncio.sleep(self.delay_s)


async def test_a_store_slower_than_the_caller_can_wait_leaves_the_copy_and_the_breaker() -> None:
    store = SlowStore()
    await give_record(store, "user", new_record())
    await activate(store, GENERATION)
    async with serving(store) as service:
        assert (await service.recommend("user"))["source"] == "personal"
        store.delay_s = 2.0
        for _ in range(5):
            began_at = time.monotonic()
            answer = await service.recommend("user", timeout_ms=300)
            assert time.monotonic() - began_at < 1.0
            assert answer["source"] in ("stale", "popular")
            assert answer["degraded"] is True
        assert await service.metric("thinkahead_breaker_open") == 0


async def test_the_stages_of_an_answer_add_up(service: InProcess) -> None:
    answer = await service.recommend("personal")
    stages = answer["timings_ms"]
    assert stages["encode"] > 0
    parts = sum(stages[stage] for stage in ("store", "queue", "encode", "finish"))
    assert parts <= stages["total"] + 0.01
    for stage in stages:
        sample = f'thinkahead_stage_seconds_count{{stage="{stage}"}}'
        assert await service.metric(sample) == 1


def test_a_rung_is_brief_only_once_it_was_seen_to_be() -> None:
    times = RungTimes()
    assert not times.is_brief(Source.ONLINE)
    times.record(Source.ONLINE, 0.0001, work_s=0.0001)
    assert times.is_brief(Source.ONLINE)
    times.record(Source.ONLINE, 0.01, work_s=0.0001)  # the thread was kept from its core
    assert times.is_brief(Source.ONLINE)
    times.record(Source.ONLINE, 0.01, work_s=0.01)
    assert not times.is_brief(Source.ONLINE)


def test_a_pace_follows_what_a_rung_took_and_doubts_itself_when_that_bars_it() -> None:
    times = RungTimes()
    assert times.expected_s(Source.ONLINE) == 0
    times.record(Source.ONLINE, 1.0, work_s=1.0)
    assert times.expected_s(Source.ONLINE) == 1.0
    for _ in range(50):
        times.record(Source.ONLINE, 0.1, work_s=0.1)
    assert times.expected_s(Source.ONLINE) == pytest.approx(0.1, rel=0.01)
    for _ in range(100):
        times.record_skip(Source.ONLINE)
    assert times.expected_s(Source.ONLINE) < 0.01
    assert times.expected_s(Source.GLOBAL) == 0


def counted(method: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(1)
        return method(*arguments)

    return call


async def test_a_history_is_encoded_once_and_extended_by_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    await give_history(store, "user", item_ids(5))
    await give_record(store, "user", new_record(prefixes=some_prefixes(1)))
    await activate(store, GENERATION)
    finisher = toy_engine().finisher
    engine = Engine(toy_engine().release, finisher)
    encoded, extended, resolved = list[int](), list[int](), list[int]()
    async with serving(store, engine=engine) as service:
        await until_ready(service)
        monkeypatch.setattr(finisher, "encode", counted(finisher.encode, encoded))
        monkeypatch.setattr(finisher, "extend", counted(finisher.extend, extended))
        monkeypatch.setattr(finisher, "candidates", counted(finisher.candidates, resolved))
        for _ in range(3):
            await service.recommend("user", n=100)  # down to the last rung
        assert (len(encoded), len(resolved)) == (1, 1)
        before = len(extended)  # encoding is extending nothing
        await service.client.post("/events/user", json={"item_id": item_ids(6)[0]})
        answer = await service.recommend("user")
        assert (len(encoded), len(extended) - before, len(resolved)) == (1, 1, 1)
    rows = [engine.catalog.row(item) or 0 for item in (*item_ids(5), item_ids(6)[0])]
    afresh = engine.finisher.encode(rows[window_start(len(rows), finisher.window) :])
    candidates = engine.finisher.candidates(some_prefixes(1))
    best = engine.finisher.finish(afresh, candidates, k=10, exclude=rows)
    expected = [engine.catalog.item_ids[scored.row] for scored in best]
    assert [item["item_id"] for item in answer["items"]][: len(expected)] == expected
