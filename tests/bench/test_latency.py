"""Open-loop load: due times of requests, the latency counted from them, saturation."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.common.results import Row, write_markdown
from bench.load.arrivals import Kind, Mix, Request, arrival_times, draw_requests, skewed
from bench.load.http_connection import Address, Answer, read_head
from bench.load.open_loop import Outcome, run_open_loop
from bench.load.population import NUM_PREFIXES, own_prefixes
from bench.load.rate_sweep import Spent, describe, next_rate, saturation
from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.torch_runtime import TorchRuntime
from tests import ROOT
from tests.fakes.service_harness import toy_release_dir
from tests.fakes.toy import toy_catalog, toy_recommender
from tests.system.test_demo import write_dataset

MIX = Mix([f"user-{rank}" for rank in range(100)], ["item-0", "item/1"])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Respond = Callable[[int], bytes | None]


@contextmanager
def fake_server(respond: Respond) -> Iterator[Address]:
    """One thread that answers the n-th request of all with respond(n); None breaks off."""
    num_asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_asked
        with closing(writer):
            while b"GET" in await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                num_asked += 1
                if (answer := respond(num_asked)) is None:
                    break
                writer.write(answer)

    with asyncio.Runner() as runner:
        server = runner.run(asyncio.start_server(serve, "127.0.0.1", 0))
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield Address(*server.sockets[0].getsockname())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()


def requests(num: int, *, seconds: float) -> list[Request]:
    """Evenly spaced, so that a test can count them."""
    payload = b"GET / HTTP/1.1\r\nHost: fake\r\n\r\n"
    return [Request(at * seconds / num, "recommend", payload) for at in range(num)]


def test_requests_are_the_same_for_a_seed_and_others_for_another() -> None:
    first, again, other = (draw_requests(MIX, rate=200, seconds=2, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_run_offers_exactly_its_rate_at_the_times_of_a_poisson_process() -> None:
    """Gaps of a Poisson process are exponential: as wide as their mean, and 1/e exceed it."""
    due = arrival_times(20_000, 40.0, np.random.default_rng(0))
    gaps = np.diff(due)
    assert len(due) == 20_000
    assert (gaps >= 0).all()
    assert 0 <= due[0] <= due[-1] < 40
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_users_are_drawn_with_a_skew_and_some_requests_are_events() -> None:
    drawn = draw_requests(MIX, rate=20_000, seconds=1, seed=0)
    events = [request for request in drawn if request.kind == "event"]
    assert len(events) / len(drawn) == pytest.approx(MIX.event_share, abs=0.01)
    assert all(request.payload.startswith(b"POST /events/user-") for request in events)
    head = sum(b"/user-0?n=10 " in request.payload for request in drawn)
    assert head / (len(drawn) - len(events)) == pytest.approx(skewed(100, 0.8)[0], abs=0.02)


@pytest.mark.system
@pytest.mark.parametrize("num_connections", [1, 64])
def test_a_stall_counts_for_every_request_that_was_due_meanwhile(num_connections: int) -> None:
    """A generator that waits for answers would see one slow request of 200, and a fine p99."""

    def stall_once(number: int) -> bytes:
        if number == 50:
            time.sleep(0.2)
        return OK

    with fake_server(stall_once) as address:
        outcomes = run_open_loop(address, requests(200, seconds=1), num_connections=num_connections)
    slow = [outcome for outcome in outcomes if outcome.latency_s > 0.1]
    assert len(slow) >= 15
    row = describe_all(outcomes)
    assert float(row["p99_ms"]) >= 180


def test_latency_of_an_idle_server_is_not_rounded_up_to_the_millisecond() -> None:
    with fake_server(lambda _: OK) as address:
        outcomes = run_open_loop(address, requests(100, seconds=0.5))
    assert min(outcome.lag_s for outcome in outcomes) < 0.0005
    assert all(outcome.answer == Answer(200, b"{}") for outcome in outcomes)


def test_a_connection_that_breaks_costs_one_request() -> None:
    with fake_server(lambda number: None if number == 10 else OK) as address:
        outcomes = run_open_loop(address, requests(40, seconds=0.2), num_connections=1)
    assert [outcome.answer is None for outcome in outcomes].count(True) == 1


def test_what_is_never_answered_counts_with_the_time_it_was_waited_for() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"
    with fake_server(lambda number: half if number == 1 else OK) as address:
        outcomes = run_open_loop(
            address, requests(3, seconds=0.03), num_connections=1, patience_s=0.2
        )
    assert [outcome.answer for outcome in outcomes] == [None] * 3
    assert all(outcome.latency_s > 0.2 for outcome in outcomes)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"])
def test_a_head_without_status_or_length_is_no_answer(head: bytes) -> None:
    with pytest.raises(ConnectionError):
        read_head(head)


def describe_all(outcomes: list[Outcome]) -> Row:
    return describe("row", outcomes, rate=10, seconds=1.0, spent=Spent(0.02, 0.01))


def outcome(
    *, kind: Kind = "recommend", ms: float = 10, status: int = 200, degraded: bool = False
) -> Outcome:
    source = "popular" if degraded else "personal"
    body = {"source": source, "degraded": degraded, "timings_ms": {"store": 1.0, "finish": 4.0}}
    text = json.dumps({} if kind == "event" else body).encode()
    return Outcome(Request(0.0, kind, b""), ms / 1000, 0.0, Answer(status, text))


def test_goodput_counts_200_in_time_and_full_goodput_what_is_not_degraded() -> None:
    good = [outcome(), outcome(ms=99), outcome(degraded=True), outcome(kind="event")]
    bad = [outcome(ms=101), outcome(status=503), outcome(kind="event", status=202)]
    row = describe_all([*good, *bad, Outcome(Request(0.0, "recommend", b""), 5.0, 0.0, None)])
    assert (row["goodput"], row["full_goodput"]) == (4, 3)
    assert (row["status_200"], row["status_202"], row["status_503"]) == (5, 1, 1)
    assert row["no_answer"] == 1
    assert row["cpu_ms"] == pytest.approx(20 / 7)


def test_latencies_shares_and_stages_are_those_of_recommendations() -> None:
    row = describe_all([outcome(ms=10), outcome(ms=30, degraded=True), outcome(kind="event", ms=1)])
    assert row["p50_ms"] == pytest.approx(10, rel=0.001)
    assert row["p999_ms"] == pytest.approx(30, rel=0.001)
    assert row["event_p99_ms"] == pytest.approx(1, rel=0.001)
    assert (row["share_personal"], row["share_popular"]) == (0.5, 0.5)
    assert (row["store_ms"], row["finish_ms"]) == (1.0, 4.0)


@pytest.mark.parametrize("capacity", [437, 55, 51, 3, 0])
def test_the_search_ends_within_6_percent_of_a_capacity(capacity: int) -> None:
    rows: list[Row] = []
    while (rate := next_rate(rows, first=50)) is not None:
        rows.append({"name": "row", "rate": rate, "goodput": min(rate, capacity)})
        assert len(rows) < 30
    true = int(capacity / 0.95)
    assert true / 1.07 - 1 <= saturation(rows) <= true


def test_saturation_is_the_highest_rate_that_goodput_follows() -> None:
    rows: list[Row] = [
        {"name": "a", "rate": 100, "goodput": 100.0, "full_goodput": 99.0},
        {"name": "b", "rate": 200, "goodput": 190.0, "full_goodput": 120.0},
        {"name": "c", "rate": 300, "goodput": 284.9, "full_goodput": 10.0},
    ]
    assert saturation(rows) == 200
    assert saturation(rows, "full_goodput") == 100
    assert saturation(rows[2:]) == 0


def test_records_hold_the_online_models_best_prefixes() -> None:
    catalog = toy_catalog()
    finisher = Finisher(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog)
    found = own_prefixes(finisher, catalog, [*catalog.item_ids[5:8], "unknown"])
    state = finisher.encode([5, 6, 7])
    best = catalog.trie.prefixes()[finisher.rank_prefixes(state, count=NUM_PREFIXES)].tolist()
    assert [list(prefix.codes) for prefix in found] == best
    logprobs = [prefix.logprob for prefix in found]
    assert logprobs == sorted(logprobs, reverse=True)


def test_a_markdown_table_holds_the_columns_and_the_meta(tmp_path: Path) -> None:
    rows: list[Row] = [{"name": "a", "p50_ms": 1.5, "p50_ms_low": 1.0, "p50_ms_high": 2.0}]
    write_markdown(tmp_path / "x.md", "a title", {"seed": 7}, rows, ["name", "p50_ms", "other"])
    lines = (tmp_path / "x.md").read_text().splitlines()
    assert lines[0] == "# a title"
    assert lines[2:5] == [
        "| name | p50_ms | other |",
        "| --- | ---: | ---: |",
        "| a | 1.5000 [1.0000, 2.0000] |  |",
    ]
    assert "- seed: 7" in lines


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="processes keep to a core on Linux only")
def test_a_short_run_on_a_real_service_gives_rows_of_the_agreed_columns(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    write_dataset(tmp_path / "data", toy_catalog(), num_users=30)
    file = tmp_path / "latency.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "latency", "--json", str(file)),
            *("--release", str(toy_release_dir()), "--data", str(tmp_path / "data")),
            *("--rates", "40", "--seconds", "0.5", "--event-share", "0.2"),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if "THINKAHEAD" not in key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    row = report["rows"][0]
    agreed = {"rate", "p50_ms", "p99_ms", "p999_ms", "goodput", "cpu_ms", "share_personal"}
    assert agreed <= row.keys()
    assert row["name"] == "rate_40"
    assert sum(row[key] for key in row if key.startswith("status_")) + row["no_answer"] == 20
    assert row["share_personal"] > 0
    assert row["cpu_ms"] > 0
    assert {"saturation_rps", "users", "skew", "budget_ms"} <= report["meta"].keys()
    assert report["meta"]["users"] == 30
    assert "| rate_40 |" in file.with_suffix(".md").read_text()
