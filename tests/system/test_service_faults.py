"""The service as a process of its own, over a Redis that is killed, hung and brought back."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from models.store.embedded import attach
from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    item_ids,
    read_metric,
    start_service,
    toy_release_dir,
)

pytestmark = pytest.mark.timeout(300)  # processes start slowly on a machine busy with trainings
BUDGET_MS = 100
USERS = tuple(f"user-{at}" for at in range(20))


class Answer(NamedTuple):
    status: int
    source: str
    ms: float
    store_ms: float


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    return own_server


@pytest.fixture
def service(server: RedisServer) -> Iterator[ServiceProcess]:
    asyncio.run(furnish_redis(server.url, USERS))
    with ServiceProcess("--release", str(toy_release_dir()), "--redis", server.url) as service:
        yield service


def ask(client: httpx.Client, user: str) -> Answer:
    began_at = time.perf_counter()
    answer = client.get(f"/recommend/{user}")
    ms = 1000 * (time.perf_counter() - began_at)
    if answer.status_code != 200:
        return Answer(answer.status_code, "", ms, 0)
    body = answer.json()
    return Answer(answer.status_code, body["source"], ms, body["timings_ms"]["store"])


def ask_for(client: httpx.Client, *, seconds: float) -> list[Answer]:
    """One request after another over all users; posts an event now and then."""
    answers, ends_at = [], time.monotonic() + seconds
    while time.monotonic() < ends_at:
        answers += [ask(client, user) for user in USERS]
        posted = client.post(f"/events/{USERS[0]}", json={"item_id": item_ids(1)[0]})
        assert posted.status_code in (200, 202)
    return answers


def until_personal(client: httpx.Client) -> float:
    """Seconds until an answer is personal again."""
    began_at = time.monotonic()
    while ask(client, USERS[0]).source != "personal":
        assert time.monotonic() - began_at < 30
        time.sleep(0.05)
    return time.monotonic() - began_at


def p99(answers: list[Answer]) -> float:
    return sorted(answer.ms for answer in answers)[int(0.99 * len(answers))]


def is_telling(healthy: list[Answer]) -> bool:
    """True if times can be judged: the healthy service is fast enough on this machine."""
    return p99(healthy) <= BUDGET_MS / 2


def report(**figures: Any) -> None:
    print({name: round(value, 1) for name, value in figures.items()})  # noqa: T201  # with -s


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_redis_that_goes_away_costs_no_request_and_comes_back(
    service: ServiceProcess, server: RedisServer, blow: signal.Signals
) -> None:
    with httpx.Client(base_url=service.url, timeout=10) as client:
        before = ask_for(client, seconds=1)
        server.signal(blow)
        during = ask_for(client, seconds=1)
        later = ask_for(client, seconds=2)
        metrics = client.get("/metrics").text
        assert client.get("/health/ready").status_code == 200
        if blow == signal.SIGKILL:
            server.kill()
            server.start()
        else:
            server.signal(signal.SIGCONT)
        seconds_back = until_personal(client)
    report(before=p99(before), during=p99(during), later=p99(later), back=seconds_back)
    assert {answer.status for answer in before + during + later} == {200}
    assert {answer.source for answer in before} >= {"personal"}
    assert "stale" in {answer.source for answer in later}
    assert "personal" not in {answer.source for answer in later}
    assert statistics.median(answer.store_ms for answer in later) < 1
    if is_telling(before):
        assert p99(during + later) <= BUDGET_MS
        assert seconds_back < 2
    assert read_metric(metrics, "thinkahead_breaker_open") == 1
    asked_in_vain = read_metric(metrics, 'thinkahead_fallbacks_total{reason="store"}')
    assert asked_in_vain <= 10


def test_the_embedded_server_killed_under_the_service_costs_no_request(tmp_path: Path) -> None:
    with attach(tmp_path) as home:
        asyncio.run(furnish_redis(home.url, USERS))
        environ = {"THINKAHEAD_STATE_DIR": str(tmp_path)}
        with (
            ServiceProcess("--release", str(toy_release_dir()), environ=environ) as service,
            httpx.Client(base_url=service.url, timeout=10) as client,
        ):
            until_personal(client)
            before = ask_for(client, seconds=1)
            pid = int((tmp_path / "redis" / "server.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            answers = ask_for(client, seconds=2)
            until_personal(client)
            assert service.stop() == 0
    assert {answer.status for answer in before + answers} == {200}
    assert p99(answers) <= BUDGET_MS or not is_telling(before)


def test_a_service_becomes_ready_without_redis_and_takes_it_up_later(server: RedisServer) -> None:
    asyncio.run(furnish_redis(server.url, USERS))
    server.kill()
    with (
        ServiceProcess("--release", str(toy_release_dir()), "--redis", server.url) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        assert "personal" not in {answer.source for answer in ask_for(client, seconds=0.5)}
        server.start()
        until_personal(client)


def test_sigterm_answers_what_is_in_flight_and_exits_0(service: ServiceProcess) -> None:
    body = json.dumps({"item_id": item_ids(1)[0]}).encode()
    head = f"POST /events/user HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(service.url).port or 0)) as connection:
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.3)
        service.process.terminate()
        time.sleep(0.3)
        connection.sendall(body[5:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 20")  # 202 if Redis was too slow
    began_at = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began_at < 10
    assert not [line for line in service.log if "Traceback" in line]


def refusal(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    process = start_service(*arguments, environ=environ)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("is_signed", [False, True])
def test_corrupt_weights_are_refused_with_78_and_one_line(tmp_path: Path, is_signed: bool) -> None:
    """Also when they were corrupt before their digest was taken."""
    release = tmp_path / "release"
    shutil.copytree(toy_release_dir(), release)
    weights = release / "online.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    if is_signed:
        sign(release, weights.name)
    status, errors = refusal("--release", str(release))
    assert (status, errors.count("\n")) == (78, 1), errors
    assert str(weights) in errors


def sign(release: Path, name: str) -> None:
    """Put the digest of a changed file into the manifest."""
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((release / name).read_bytes()).hexdigest()
    (release / "manifest.json").write_text(json.dumps(manifest))


def test_bad_settings_are_refused_with_78_and_one_line() -> None:
    release = ["--release", str(toy_release_dir())]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, environ, named in (
            ([], {}, "--release"),
            ([*release, "--port", port], {}, port),
            (release, {"THINKAHEAD_REDIS_TIMOUT_MS": "5"}, "THINKAHEAD_REDIS_TIMEOUT_MS"),
        ):
            status, errors = refusal(*arguments, environ=environ)
            assert (status, errors.count("\n")) == (78, 1), errors
            assert named in errors
