"""Sockets, floods and clients that leave, against a service process of its own."""

import asyncio
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from service.limits.connections import MAX_HEAD_BYTES, MAX_URL_BYTES
from service.limits.replies import Rejections
from service.telemetry.request_headers import CRITICALITY_HEADER
from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    read_metric,
    toy_release_dir,
)

pytestmark = pytest.mark.timeout(300)  # processes start slowly on a machine busy with trainings
USERS = tuple(f"user-{at}" for at in range(20))


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    asyncio.run(furnish_redis(own_server.url, USERS, num_items=0))
    return own_server


def serve(server: RedisServer, **settings: object) -> ServiceProcess:
    environ = {f"THINKAHEAD_{name.upper()}": str(value) for name, value in settings.items()}
    arguments = ("--release", str(toy_release_dir()), "--redis", server.url)
    return ServiceProcess(*arguments, environ=environ)


def dial(service: ServiceProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(service.url).port or 0), timeout=30)


def say(service: ServiceProcess, data: bytes) -> bytes:
    """Send all bytes and return all bytes received until the server closes."""
    with dial(service) as connection:
        with suppress(OSError):  # refused before it was through
            connection.sendall(data)
        return hear(connection)


def hear(connection: socket.socket) -> bytes:
    heard = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            heard += chunk
    return heard


def status_of(answer: bytes) -> int:
    assert b"application/problem+json" in answer, answer
    return int(answer.split()[1])


def test_what_is_too_large_or_no_http_is_refused_with_a_problem(server: RedisServer) -> None:
    with serve(server) as service:
        start = b"GET /recommend/user-0"
        end = b" HTTP/1.1\r\nHost: x\r\n"
        long_url = start + b"?category=" + b"x" * MAX_URL_BYTES + end + b"\r\n"
        many_params = start + b"?" + b"a&" * 10_000 + end + b"\r\n"
        one_header = start + end + b"X-A: " + b"x" * (2 * MAX_HEAD_BYTES) + b"\r\n\r\n"
        endless = start + end + b"X-A: " + b"x" * (2 * MAX_HEAD_BYTES)
        many_headers = start + end + b"X-A: x\r\n" * 10_000 + b"\r\n"
        sent = (long_url, many_params, one_header, endless, many_headers, b"what?\r\n\r\n")
        assert [status_of(say(service, data)) for data in sent] == [414, 414, 431, 431, 431, 400]
        some_params = f"{service.url}/recommend/user-0?" + "a&" * 5000
        refused = httpx.get(some_params)
        assert refused.status_code == 422  # unknown names, in an answer of a bounded size
        assert len(refused.content) < 10_000
        assert not [line for line in service.log if "Traceback" in line]


def test_trailers_of_a_body_are_dropped(server: RedisServer) -> None:
    body = b"POST /events/user-0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    body += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    body += b'f\r\n{"item_id":"x"}\r\n0\r\nX-Request-Id: late\r\n\r\n'
    with serve(server) as service:
        answer = say(service, body)
    assert answer.startswith(b"HTTP/1.1 20")
    assert b"x-request-id: late" not in answer


def test_a_client_that_leaves_takes_its_request_along_before_the_model_runs(
    server: RedisServer,
) -> None:
    with (
        serve(server, redis_timeout_ms=3000, request_budget_ms=10_000) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        assert client.get("/recommend/user-0").json()["source"] == "personal"
        server.signal(signal.SIGSTOP)
        for _ in range(3):
            with dial(service) as connection:
                connection.sendall(b"GET /recommend/user-1 HTTP/1.1\r\nHost: x\r\n\r\n")
                time.sleep(0.2)
        deadline, gone = time.monotonic() + 60, 0.0
        while gone < 3:
            assert time.monotonic() < deadline
            metrics = client.get("/metrics").text
            gone = read_metric(
                metrics,
                'thinkahead_requests_total{route="/recommend/{user_id}",source="",status="499"}',
            )
        server.signal(signal.SIGCONT)
        time.sleep(0.5)
        metrics = client.get("/metrics").text
        assert read_metric(metrics, 'thinkahead_stage_seconds_count{stage="total"}') == 1
        assert read_metric(metrics, "thinkahead_in_work") == 0
        assert service.stop() == 0
    assert not [line for line in service.log if "Traceback" in line]


def test_on_sigterm_it_is_unready_at_once_answers_on_and_closes_behind_its_answers(
    server: RedisServer,
) -> None:
    with (
        serve(server, drain_grace_ms=3000) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
        dial(service),  # idle: it must hold nobody up
    ):
        assert "connection" not in client.get("/recommend/user-0").headers
        service.process.terminate()
        began_at = time.monotonic()
        unready = client.get("/health/ready")
        while unready.status_code == 200:
            assert time.monotonic() - began_at < 2
            unready = client.get("/health/ready")
        assert (unready.status_code, unready.headers["connection"]) == (503, "close")
        while time.monotonic() - began_at < 2:
            answer = client.get("/recommend/user-0")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert service.stop() == 0
        assert time.monotonic() - began_at < 10
    assert not [line for line in service.log if "Traceback" in line]


def test_a_client_that_dawdles_does_not_keep_a_process_that_was_told_to_end(
    server: RedisServer,
) -> None:
    with serve(server, drain_grace_ms=0) as service, dial(service) as connection:
        connection.sendall(b"GET /recommend/user-0 HTTP/1.1\r\nHost")
        time.sleep(0.3)
        service.process.terminate()
        began_at = time.monotonic()
        assert status_of(hear(connection)) == 408
        assert service.stop() == 0
        assert time.monotonic() - began_at < 10


async def flood(url: str, *, num_clients: int, seconds: float, kind: str) -> Counter[str]:
    """Run clients that ask again at once, and count their answers by kind."""
    counts: Counter[str] = Counter()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    ends_at = time.monotonic() + seconds

    async def client(user: str) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        request = f"GET /recommend/{user} HTTP/1.1\r\nHost: x\r\n{CRITICALITY_HEADER}: {kind}\r\n"
        while time.monotonic() < ends_at:
            writer.write(request.encode() + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                counts["popular" if b'"source":"popular","deg' in body else "full"] += 1
            else:
                assert head.startswith(b"HTTP/1.1 503"), head
                assert b"retry-after: 1" in head.lower()
                assert b"application/problem+json" in head
                counts["refused"] += 1
        writer.close()

    await asyncio.gather(*(client(USERS[at % len(USERS)]) for at in range(num_clients)))
    return counts


async def floods(url: str) -> dict[str, Counter[str]]:
    kinds = ("critical", "sheddable")
    found = await asyncio.gather(
        *(flood(url, num_clients=150, seconds=5, kind=kind) for kind in kinds)
    )
    return dict(zip(kinds, found, strict=True))


def test_a_flood_is_shed_sheddable_first_and_all_is_well_within_seconds_after(
    server: RedisServer,
) -> None:
    with (
        serve(server, request_budget_ms=50, queue_limit=64) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        counts = asyncio.run(floods(service.url))
        print(counts)  # noqa: T201  # with -s
        critical, sheddable = counts["critical"], counts["sheddable"]
        assert critical["full"] > 0
        assert sheddable["popular"] + sheddable["refused"] > 0
        assert share(critical, "full") > share(sheddable, "full")
        assert share(critical, "refused") <= share(sheddable, "refused")
        metrics = client.get("/metrics").text
        refused = sum(
            read_metric(metrics, f'thinkahead_refusals_total{{criticality="{kind}"}}')
            for kind in counts
        )
        assert refused == critical["refused"] + sheddable["refused"]
        popular = 'route="/recommend/{user_id}",source="popular",status="200"'
        counted = read_metric(metrics, f"thinkahead_requests_total{{{popular}}}")
        assert counted == critical["popular"] + sheddable["popular"]
        shed = read_metric(metrics, 'thinkahead_fallbacks_total{reason="overload"}')
        assert 0 < shed <= critical["popular"] + sheddable["popular"]  # others had no time left
        deadline = time.monotonic() + 30
        while client.get("/recommend/user-0").json()["source"] != "personal":
            assert time.monotonic() < deadline


def share(counts: Counter[str], outcome: str) -> float:
    return counts[outcome] / counts.total()


def test_a_refusal_is_a_whole_answer_with_an_id_of_its_own() -> None:
    rejections = Rejections(retry_after_s=1)
    first, second = rejections.write(), rejections.write()
    head, _, body = first.partition(b"\r\n\r\n")
    assert first != second
    assert status_of(first) == 503
    assert f"content-length: {len(body)}".encode() in head
    assert b"retry-after: 1" in head
