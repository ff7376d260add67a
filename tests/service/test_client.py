"""The client against servers on real sockets: scripted ones, and the service itself."""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import ROOT
from tests.fakes.scripted_server import HANG, RESET, Scripted, scripted
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    furnish_redis,
    item_ids,
    scores_of,
    toy_engine,
    toy_release_dir,
)
from thinkahead_client.answers import Recommendation
from thinkahead_client.calls import NewEvent, NewItem
from thinkahead_client.client import AsyncClient, Client, Options
from thinkahead_client.errors import (
    BadAnswer,
    Busy,
    ClientError,
    DeadlineExceeded,
    Faulty,
    Gone,
    InvalidArgument,
    NotAccepted,
    NotAllowed,
    Unreachable,
    parse_refusal,
    read_retry_after,
)
from thinkahead_client.retries import Hedge, pause_s

ANSWER = Scripted(
    body={
        "request_id": "r1",
        "user_id": "u",
        "source": "a rung of a later version",
        "degraded": False,
        "generation": {"id": 3, "created_at": 5, "age_s": 7, "later": 1},
        "release": "toy@1",
        "items": [{"item_id": "i1", "rank": 1, "score": None, "sid": [1], "source": "x", "new": 0}],
        "timings_ms": {"total": 0.5},
        "a_field_of_a_later_version": {"deep": [1]},
    }
)
TAKEN = Scripted(
    body={
        "request_id": "r1",
        "user_id": "u",
        "event_id": "e",
        "item_id": "i",
        "timestamp": 1,
        "known": True,
        "stored": True,
        "new": True,
    }
)
AWAY = Scripted(
    503,
    {"title": "Service Unavailable", "status": 503, "detail": "the store is away"},
    {"X-Request-Id": "r9"},
)
PATIENT = Options(timeout_s=60, backoff_s=0.001)  # other work shares the test machine


def answers_in(seconds: float) -> Scripted:
    return Scripted(body=ANSWER.body, delay_s=seconds)


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_an_answer_is_typed_and_fields_of_later_versions_are_ignored() -> None:
    async with scripted(otherwise=ANSWER) as server, AsyncClient(server.url, PATIENT) as client:
        answer = await client.recommend("u")
    assert isinstance(answer, Recommendation)
    assert answer.item_ids == ["i1"]
    assert answer.source == "a rung of a later version"
    assert answer.generation is not None
    assert answer.generation.age_s == 7
    assert answer.timings_ms["total"] == 0.5
    with pytest.raises(ValueError, match="frozen"):
        answer.items[0].rank = 2  # type: ignore[misc]


async def test_wishes_id_and_key_are_sent_as_the_service_reads_them() -> None:
    options = Options(api_key="s3cret", timeout_s=60)
    async with scripted(otherwise=ANSWER) as server, AsyncClient(server.url, options) as client:
        await client.recommend("a/b ü", n=5, exclude=["x", "y,z"], explain=True, mode="union")
    (asked,) = server.asked
    path, _, query = asked.target.partition("?")
    assert (asked.method, path) == ("GET", "/v1/recommend/a%2Fb%20%C3%BC")
    assert query == "n=5&exclude=x&exclude=y%2Cz&explain=true&mode=union"
    assert asked.headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(options)


async def test_a_service_that_is_away_twice_is_asked_a_third_time() -> None:
    async with (
        scripted(AWAY, AWAY, otherwise=ANSWER) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        assert (await client.recommend("u")).item_ids == ["i1"]
    assert len(server.asked) == 3


async def test_the_last_refusal_is_raised_when_attempts_run_out() -> None:
    async with scripted(otherwise=AWAY) as server, AsyncClient(server.url, PATIENT) as client:
        with pytest.raises(Busy, match="503: the store is away") as caught:
            await client.recommend("u")
    assert caught.value.request_id == "r9"
    assert len(server.asked) == 1 + PATIENT.retries


async def test_all_attempts_of_an_event_carry_one_event_id_and_calls_carry_different_ones() -> None:
    async with (
        scripted(AWAY, RESET, otherwise=TAKEN) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        await client.append("u", "i", timestamp=12)
        await client.append("u", "i")
        await client.append("u", "i", event_id="my own")
    bodies = [json.loads(asked.body) for asked in server.asked]
    first, second, third, fourth, fifth = (body.pop("event_id") for body in bodies)
    assert first == second == third != fourth
    assert fifth == "my own"
    assert bodies[0] == {"item_id": "i", "timestamp": 12}
    assert bodies[3] == {"item_id": "i"}


ACCEPTED = Scripted(202, {"request_id": "r", "user_id": "u"})


async def test_a_call_that_may_have_been_heard_is_made_again_only_if_that_is_safe() -> None:
    """Thinking twice costs a worker twice; a refusal was heard and done nothing about."""
    async with (
        scripted(RESET, AWAY, RESET, otherwise=ACCEPTED) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        with pytest.raises(Unreachable):
            await client.think("u")
        with pytest.raises(Unreachable):
            await client.think("u", "something for a birthday")
        assert len(server.asked) == 3
        await client.think("u", "something for a birthday")
        await client.delete("u")
    assert [json.loads(asked.body or b"null") for asked in server.asked] == [
        *(None, *[{"instruction": "something for a birthday"}] * 3, None)
    ]
    assert (server.asked[-1].method, server.asked[-1].target) == ("DELETE", "/v1/users/u")


async def test_a_batch_that_is_sent_again_carries_the_same_events() -> None:
    taken = Scripted(body={"request_id": "r", "results": [{"status": 200, "user_id": "u"}]})
    events = [NewEvent("u", "i", 5), NewEvent("v", "j", event_id="mine", type="buy", value=2)]
    async with (
        scripted(AWAY, RESET, otherwise=taken) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        await client.append_batch(events)
    first, *others = (json.loads(asked.body) for asked in server.asked)
    assert others == [first, first]
    assert first["events"] == [
        {"user_id": "u", "item_id": "i", "event_id": events[0].event_id, "timestamp": 5},
        {"user_id": "v", "item_id": "j", "event_id": "mine", "type": "buy", "value": 2},
    ]


async def test_a_list_that_is_gone_says_so() -> None:
    gone = Scripted(410, {"detail": "begin again"})
    async with scripted(otherwise=gone) as server, AsyncClient(server.url, PATIENT) as client:
        with pytest.raises(Gone, match="begin again"):
            await client.recommend("u", cursor="of yesterday")
    assert len(server.asked) == 1


@pytest.mark.system
async def test_a_retry_after_is_waited_for() -> None:
    busy = Scripted(429, {"detail": "slow down"}, {"Retry-After": "1"})
    async with (
        scripted(busy, otherwise=ANSWER) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        started = time.monotonic()
        await client.recommend("u")
    assert time.monotonic() - started >= 1
    assert len(server.asked) == 2


@pytest.mark.system
async def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    busy = Scripted(503, {"detail": "later"}, {"Retry-After": "120"})
    async with scripted(otherwise=busy) as server, AsyncClient(server.url, PATIENT) as client:
        started = time.monotonic()
        with pytest.raises(Busy) as caught:
            await client.recommend("u")
    assert caught.value.retry_after_s == 120
    assert time.monotonic() - started < 30
    assert len(server.asked) == 1


@pytest.mark.system
async def test_a_server_that_hangs_costs_the_deadline_and_no_more() -> None:
    async with scripted(otherwise=HANG) as server, AsyncClient(server.url) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"GET /v1/recommend/u: no answer in 0\.2 s"):
            await client.recommend("u", timeout_s=0.2)
        assert 0.19 < time.monotonic() - started < 10
        await until(lambda: server.num_hung_up_on == 1)


@pytest.mark.system
async def test_the_service_is_told_how_much_time_is_left_at_each_attempt() -> None:
    slow = Scripted(503, {"detail": "later"}, delay_s=0.3)
    options = Options(timeout_s=60, network_ms=10, backoff_s=0)
    async with (
        scripted(slow, otherwise=ANSWER) as server,
        AsyncClient(server.url, options) as client,
    ):
        await client.recommend("u", timeout_s=20)
        await client.recommend("u", timeout_s=600)
    first, second, capped = (int(asked.headers["x-request-timeout-ms"]) for asked in server.asked)
    assert 15_000 < first <= 19_990
    assert second <= first - 300
    assert capped == 60_000


@pytest.mark.parametrize("status", [400, 404, 413, 422, 401, 403, 500])
async def test_what_another_attempt_cannot_mend_is_raised_at_once(status: int) -> None:
    refused = Scripted(status, {"detail": "no", "errors": [{"where": "query.n", "what": "big"}]})
    kind = {401: NotAllowed, 403: NotAllowed, 500: Faulty}.get(status, NotAccepted)
    async with scripted(otherwise=refused) as server, AsyncClient(server.url, PATIENT) as client:
        with pytest.raises(kind, match=rf"{status}: no \(query.n: big\)") as caught:
            await client.recommend("u")
    assert caught.value.errors == (("query.n", "big"),)
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>login</html>", b'{"request_id": "r"}', b""])
async def test_an_answer_that_is_none_of_ours_is_said_to_be_so(body: bytes) -> None:
    page = Scripted(200, body)
    async with scripted(otherwise=page) as server, AsyncClient(server.url, PATIENT) as client:
        with pytest.raises(BadAnswer, match="GET /v1/recommend/u: not a Recommendation"):
            await client.recommend("u")
    assert len(server.asked) == 1


async def test_a_redirect_is_not_followed() -> None:
    away = Scripted(302, b"", {"Location": "https://example.org/"})
    async with scripted(otherwise=away) as server, AsyncClient(server.url, PATIENT) as client:
        with pytest.raises(BadAnswer, match="status 302"):
            await client.recommend("u")


async def test_a_broken_connection_is_tried_again_and_a_missing_server_named() -> None:
    async with (
        scripted(RESET, otherwise=ANSWER) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        await client.recommend("u")
        url = server.url
    async with AsyncClient(url, PATIENT) as client:
        with pytest.raises(Unreachable, match=f"GET /v1/recommend/u of {url}"):
            await client.recommend("u")


async def test_a_call_that_finds_no_free_connection_waits_inside_its_deadline() -> None:
    options = Options(timeout_s=60, max_connections=1)
    async with scripted(otherwise=HANG) as server, AsyncClient(server.url, options) as client:
        first = asyncio.create_task(client.recommend("first"))
        await until(lambda: len(server.asked) == 1)
        with pytest.raises(DeadlineExceeded):
            await client.recommend("second", timeout_s=0.2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert [asked.target for asked in server.asked] == ["/v1/recommend/first"]


async def warm(client: AsyncClient, calls: int = 20) -> None:
    """Let it see how long answers take."""
    for _ in range(calls):
        await client.recommend("u")


async def test_a_hedge_answers_for_a_request_that_hangs_and_hangs_up_on_it() -> None:
    options = Options(timeout_s=60, hedge_quantile=0.95, retries=0)
    async with (
        scripted(*[ANSWER] * 20, HANG, otherwise=ANSWER) as server,
        AsyncClient(server.url, options) as client,
    ):
        await warm(client)
        await client.recommend("hung")
        await until(lambda: server.num_hung_up_on == 1)
    assert [asked.target for asked in server.asked].count("/v1/recommend/hung") == 2


@pytest.mark.system
async def test_no_second_request_without_the_option_nor_for_an_event() -> None:
    async with (
        scripted(*[ANSWER] * 30, answers_in(0.5), otherwise=TAKEN) as server,
        AsyncClient(server.url, PATIENT) as client,
    ):
        await warm(client, 31)
        assert len(server.asked) == 31
    taken_late = Scripted(body=TAKEN.body, delay_s=0.5)
    async with (
        scripted(*[ANSWER] * 20, otherwise=taken_late) as server,
        AsyncClient(server.url, Options(timeout_s=60, hedge_quantile=0.95)) as client,
    ):
        await warm(client)
        await client.append("u", "i")
        assert len(server.asked) == 21


async def test_a_hedge_that_fails_leaves_the_first_its_time() -> None:
    options = Options(timeout_s=60, hedge_quantile=0.95, retries=0)
    async with (
        scripted(*[ANSWER] * 20, answers_in(1.0), otherwise=AWAY) as server,
        AsyncClient(server.url, options) as client,
    ):
        await warm(client)
        assert (await client.recommend("late")).item_ids == ["i1"]
    assert len(server.asked) == 22


async def test_connections_of_losers_are_not_lost() -> None:
    """Each loser's connection is closed; were it leaked, the pool of two would be empty soon."""
    options = Options(timeout_s=60, hedge_quantile=0.5, retries=0, max_connections=2)
    slow = answers_in(0.2)
    script = [ANSWER] * 20 + [slow, ANSWER] * 10
    async with (
        scripted(*script, otherwise=ANSWER) as server,
        AsyncClient(server.url, options) as client,
    ):
        await warm(client)
        await warm(client, 20)
        await until(lambda: server.num_hung_up_on >= 5)


@pytest.mark.system
def test_a_hedge_waits_for_the_quantile_and_never_doubles_the_load() -> None:
    hedge = Hedge(0.95)
    assert hedge.delay_s() is None
    for milliseconds in range(100):
        hedge.record(milliseconds / 1000)
    assert hedge.delay_s() == 0.095
    num_hedged = 0
    for _ in range(1000):  # all slow
        hedge.record(1.0)
        if hedge.delay_s() is not None:
            hedge.spend()
            num_hedged += 1
    assert 90 <= num_hedged <= 110


@given(st.integers(0, 9), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_a_pause_has_full_jitter_up_to_its_cap(
    attempt: int, seed: int, base_s: float, cap_s: float
) -> None:
    longest = min(cap_s, base_s * 2**attempt)
    rng = random.Random(seed)
    pause = pause_s(Unreachable(), attempt, base_s=base_s, cap_s=cap_s, rng=rng)
    assert pause is not None
    assert 0 <= pause <= longest
    after = pause_s(Busy(503, "", retry_after_s=2.0), attempt, base_s=base_s, cap_s=cap_s, rng=rng)
    assert after is not None
    assert 2 <= after <= 2 + longest


def test_pauses_differ_between_callers() -> None:
    pauses = {
        pause_s(Unreachable(), 3, base_s=1, cap_s=9, rng=random.Random(seed)) for seed in range(50)
    }
    assert len(pauses) == 50
    assert min(pauses, key=lambda pause: pause or 0) < 1  # type: ignore[operator]


NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0\x1f", 0.0),
        ("Wed, 25 Nov 2026 12:00:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 25 Nov 2026 12:00:30 -0000", 30.0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, now=NOW) == seconds


@given(st.integers(400, 599), st.binary(max_size=200), st.text(max_size=20))
def test_any_refusal_is_one_line_of_the_tree(status: int, body: bytes, after: str) -> None:
    refusal = parse_refusal(status, {"retry-after": after}, body)
    assert refusal.status == status
    assert isinstance(refusal, ClientError)
    assert "\n" not in str(refusal)


@pytest.mark.parametrize(
    "given", [{"timeout_s": 0}, {"retries": -1}, {"hedge_quantile": 1.0}, {"max_connections": 0}]
)
def test_options_that_make_no_sense_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(given))):
        Options(**given)  # type: ignore[arg-type]


async def test_an_address_or_an_id_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidArgument, match="expected http"):
        AsyncClient("localhost:8000")
    async with scripted(otherwise=ANSWER) as server, AsyncClient(server.url) as client:
        for user_id in ("", "a\ud800", True, 1.5):
            with pytest.raises(InvalidArgument):
                await client.recommend(user_id)  # type: ignore[arg-type]
    assert server.asked == []


async def test_threads_share_a_client_and_closing_it_ends_what_is_under_way() -> None:
    async with scripted(*[ANSWER] * 8, otherwise=HANG) as server:
        client = Client(server.url, PATIENT)
        answers = await asyncio.gather(
            *(asyncio.to_thread(client.recommend, f"u{at}") for at in range(8))
        )
        assert [answer.item_ids for answer in answers] == [["i1"]] * 8
        hung = asyncio.create_task(asyncio.to_thread(client.recommend, "hung"))
        await until(lambda: len(server.asked) == 9)
        await asyncio.to_thread(client.close)
        with pytest.raises(Unreachable, match="closed"):
            await hung
        with pytest.raises(Unreachable, match="closed"):
            client.recommend("u")
        client.close()
    assert "think-ahead-client" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.system
def test_importing_the_client_brings_nothing_of_the_service() -> None:
    """Backends that only call need httpx and pydantic; the client adds little import time."""
    code = """
import sys, time
start = time.process_time()
import httpx, pydantic
class Model(pydantic.BaseModel): number: int
base = time.process_time()
from thinkahead_client import Client, Options
took = time.process_time() - base
heavy = "fastapi starlette uvicorn orjson numpy onnxruntime redis torch prometheus_client"
tops = ("models", "service", "thinkahead_client")
ours = sorted(name for name in sys.modules if name.split(".")[0] in tops)
print(sorted(set(heavy.split()) & set(sys.modules)), *ours, took / (base - start), sep="|")
"""
    alone = partial(subprocess.run, [sys.executable, "-c", code], cwd=ROOT / "clients/python")
    runs = [alone(capture_output=True, text=True, check=True).stdout.split("|") for _ in range(3)]
    heavy, *ours, _ = runs[0]
    assert heavy == "[]"
    assert ours == [
        *("thinkahead_client", "thinkahead_client.answers", "thinkahead_client.calls"),
        *("thinkahead_client.client", "thinkahead_client.errors", "thinkahead_client.ids"),
        "thinkahead_client.retries",
    ]
    assert min(float(run[-1]) for run in runs) < 0.5


@pytest.fixture(scope="module")
def service(server: RedisServer) -> Iterator[ServiceProcess]:
    """`python -m service` over a Redis in which `known` has a record and a history."""
    asyncio.run(furnish_redis(server.url, ["known"]))
    arguments = ["--release", str(toy_release_dir()), "--redis", server.url]
    environ = {"THINKAHEAD_REQUEST_BUDGET_MS": "30000", "THINKAHEAD_REDIS_TIMEOUT_MS": "10000"}
    with ServiceProcess(*arguments, environ=environ) as running:
        yield running


@pytest.fixture
async def client(service: ServiceProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, PATIENT) as client:
        yield client


@pytest.mark.system
async def test_the_service_recommends_as_asked(client: AsyncClient) -> None:
    answer = await client.recommend("known", n=7, explain=True)
    assert answer.source == "personal"
    assert len(answer.items) == 7
    assert answer.generation is not None
    assert answer.generation.id == GENERATION
    assert answer.paths[0].text == "Thought 0"
    left_out = await client.recommend("known", n=7, exclude=answer.item_ids[:3])
    assert not set(answer.item_ids[:3]) & set(left_out.item_ids)


@pytest.mark.system
async def test_an_event_is_in_the_very_next_answer_and_counts_once(client: AsyncClient) -> None:
    """The next answer leaves the item out, as it has been seen."""
    best = (await client.recommend("shopper", n=1)).item_ids[0]
    taken = await client.append("shopper", best, event_id="buy")
    assert (taken.known, taken.stored, taken.new) == (True, True, True)
    again = await client.append("shopper", best, event_id="buy")
    assert again.new is False
    answer = await client.recommend("shopper", n=100)
    assert best not in answer.item_ids
    assert answer.source == "online"
    unmasked = await client.recommend("shopper", n=100, exclude_seen=False)
    assert len(unmasked.items) == 100


@pytest.mark.system
async def test_pages_go_on_and_repeat_nothing(client: AsyncClient) -> None:
    first = await client.recommend("known", n=5)
    assert first.next_cursor is not None
    second = await client.recommend("known", n=5, cursor=first.next_cursor)
    both = (await client.recommend("known", n=10)).item_ids
    assert first.item_ids + second.item_ids == both
    assert first.recommendation_id != second.recommendation_id


@pytest.mark.system
async def test_a_history_of_the_callers_own_needs_no_user(client: AsyncClient) -> None:
    history = item_ids(4)
    own = await client.recommend_for_history(history, n=5)
    assert (own.user_id, own.source) == (None, "online")
    assert own.item_ids == [item for item, _ in scores_of(history)[:5]]


@pytest.mark.system
async def test_a_session_counts_and_is_not_stored(client: AsyncClient) -> None:
    best = (await client.recommend("known", n=1)).item_ids
    with_session = await client.recommend_in_session("known", best, n=100)
    assert not set(best) & set(with_session.item_ids)
    assert (await client.recommend("known", n=1)).item_ids == best


@pytest.mark.system
async def test_a_batch_answers_each_user_as_if_asked_for_alone(client: AsyncClient) -> None:
    answered = await client.recommend_batch(["known", "bad\nid", "nobody"], n=3)
    assert [entry.status for entry in answered.results] == [200, 422, 200]
    known, bad, nobody = answered.results
    assert known.recommendation is not None
    assert known.recommendation.item_ids == (await client.recommend("known", n=3)).item_ids
    assert bad.detail
    assert nobody.recommendation is not None
    assert nobody.recommendation.source == "global"


@pytest.mark.system
async def test_events_of_many_users_are_taken_at_once_and_fail_alone(client: AsyncClient) -> None:
    item = item_ids(1)[0]
    events = [NewEvent("one", item), NewEvent("two", ""), NewEvent("two", item)]
    taken = await client.append_batch(events)
    assert [each.status for each in taken.results] == [200, 422, 200]
    again = await client.append_batch(events)
    assert [each.new for each in again.results] == [False, None, False]
    assert (await client.recommend("two")).source == "online"


@pytest.mark.system
async def test_integers_are_ids_everywhere(client: AsyncClient) -> None:
    item = item_ids(1)[0]
    taken = await client.append(7, 12, event_id=3)
    assert (taken.item_id, taken.event_id) == ("12", "3")
    batch = await client.append_batch([NewEvent(7, 12, event_id=3), NewEvent(8, item)])
    assert [each.new for each in batch.results] == [False, True]
    answer = await client.recommend(7, exclude=[12, item])
    assert answer.user_id == "7"
    assert item not in answer.item_ids
    assert (await client.recommend_in_session(7, [12], exclude=[5])).user_id == "7"
    assert [each.user_id for each in (await client.recommend_batch([7, 8])).results] == ["7", "8"]
    assert (await client.recommend_for_history([12, item])).items
    offered = await client.offer_items([NewItem(12, title="Soap", categories=("Bath",))])
    assert [each.status for each in offered.results] == [202]


@pytest.mark.system
async def test_offered_items_are_taken_one_by_one(client: AsyncClient) -> None:
    soap = NewItem(item_id="soap", title="Soap", categories=("Bath",))
    long = replace(soap, title="x" * 1001)
    taken = await client.offer_items([soap, long, NewItem(item_id="gone", withdrawn=True)])
    assert [each.status for each in taken.results] == [202, 422, 202]
    bought = await client.append("one", item_ids(1)[0], type="purchase", value=9.5)
    assert (bought.type, bought.value) == ("purchase", 9.5)


@pytest.mark.system
async def test_thinking_is_asked_for_and_erased_users_are_served_nothing(
    client: AsyncClient,
) -> None:
    await client.append("leaver", item_ids(1)[0])
    assert (await client.think("leaver", "something else")).user_id == "leaver"
    assert (await client.recommend("leaver")).source == "online"
    assert (await client.delete("leaver")).user_id == "leaver"
    assert (await client.recommend("leaver")).source == "global"
    with pytest.raises(NotAccepted):
        await client.think("leaver", "x" * 501)


@pytest.mark.system
@pytest.mark.parametrize("user_id", ["a/b", "%2F", "..", ".", "né 🙂", "?n=1#x", "شخص"])
async def test_ids_of_any_kind_reach_the_service_as_they_are(
    client: AsyncClient, user_id: str
) -> None:
    assert (await client.recommend(user_id)).user_id == user_id


@pytest.mark.system
async def test_the_service_says_what_is_wrong_with_a_wish(client: AsyncClient) -> None:
    with pytest.raises(NotAccepted, match=r"422: .*query\.n") as caught:
        await client.recommend("known", n=101)
    assert caught.value.request_id


@pytest.mark.system
def test_the_client_for_threads_speaks_to_the_service(service: ServiceProcess) -> None:
    with Client(service.url, PATIENT) as client:
        assert client.recommend("known").source == "personal"
        known = toy_engine().catalog.item_ids[0]
        assert client.append("a thread's user", known).known
        assert client.recommend("a thread's user").source == "online"
