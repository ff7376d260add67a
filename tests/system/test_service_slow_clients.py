"""Slow, silent or too many clients on real sockets of a service process.

The time-outs of this process are smaller than a service's, so that tests are short.
"""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.fakes.service_harness import ServiceProcess, toy_release_dir

pytestmark = pytest.mark.timeout(300)
READ_S = WRITE_S = 1.0
MOST = 8
SMALLER = f"""
from service.limits import connections
connections.READ_TIMEOUT_S = {READ_S}
connections.WRITE_TIMEOUT_S = {WRITE_S}
connections.MAX_CONNECTIONS = {MOST}
"""
PATIENCE_S = 30.0
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"  # some 100 kB


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    arguments = ("--release", str(toy_release_dir()), "--redis", "redis://127.0.0.1:1")
    with ServiceProcess(*arguments, before=SMALLER) as service:
        yield service
        assert service.stop() == 0
    assert not [line for line in service.log if "Traceback" in line]


def connect(service: ServiceProcess, *, buffer_bytes: int | None = None) -> socket.socket:
    client = socket.socket()
    if buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", urlsplit(service.url).port or 0))
    return client


def ask(client: socket.socket) -> bytes:
    """Return an answer, or nothing if the connection is closed."""
    client.sendall(LIVE)
    return read_all(client, until=b'"alive"}')


def read_all(client: socket.socket, *, until: bytes = b"\0") -> bytes:
    """Return the bytes received until the connection ends, or until `until` is received."""
    found = b""
    try:
        while until not in found and (piece := client.recv(1 << 16)):
            found += piece
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health/live HTTP/1.1\r\nX-Long: ",
        b"POST /events/user HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    ],
    ids=["head", "body"],
)
def test_a_request_that_dribbles_in_is_408_when_its_time_is_over(
    service: ServiceProcess, begun: bytes
) -> None:
    """Each byte is in time; the whole is not."""
    began_at = time.monotonic()  # the service counts from the connection
    with connect(service) as client:
        client.sendall(begun)
        while not select.select([client], [], [], 0.1)[0]:
            assert time.monotonic() - began_at < PATIENCE_S
            client.sendall(b"x")
        assert time.monotonic() - began_at >= READ_S - 0.1
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert b"connection: close" in answer


def test_a_connection_that_says_nothing_is_closed_without_a_word(service: ServiceProcess) -> None:
    with connect(service) as client:
        began_at = time.monotonic()
        assert read_all(client) == b""
        assert time.monotonic() - began_at >= READ_S - 0.1


def test_a_connection_that_rests_between_requests_is_kept(service: ServiceProcess) -> None:
    with connect(service) as client:
        assert ask(client).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.3 * READ_S)
        assert ask(client).startswith(b"HTTP/1.1 200 ")


def test_a_reader_that_stands_still_is_closed(service: ServiceProcess) -> None:
    """The kernels' buffers fill first. Other clients are answered all the time."""
    with connect(service, buffer_bytes=4096) as client, connect(service) as other:
        client.sendall(100 * LARGE)
        began_at = time.monotonic()
        while time.monotonic() - began_at < 1.5 * WRITE_S:
            assert ask(other).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.05)
        assert 0 < read_all(client).count(b"HTTP/1.1 200 ") < 90


def test_a_reader_that_is_slow_but_reads_gets_all_of_it(service: ServiceProcess) -> None:
    with connect(service, buffer_bytes=65536) as client:
        client.sendall(19 * LARGE + LAST)
        began_at, found = time.monotonic(), b""
        while piece := client.recv(32768):
            found += piece
            time.sleep(0.03)
        assert found.count(b"HTTP/1.1 200 ") == 20
        assert found.endswith(b'"alive"}')
        assert time.monotonic() - began_at > WRITE_S


def test_one_connection_too_many_is_closed_and_those_that_are_there_are_served(
    service: ServiceProcess,
) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(connect(service)) for _ in range(MOST)]
        assert all(ask(client).startswith(b"HTTP/1.1 200 ") for client in clients)
        with connect(service) as one_more:
            assert read_all(one_more) == b""
        assert all(ask(client).startswith(b"HTTP/1.1 200 ") for client in clients)
        clients[0].close()
        deadline = time.monotonic() + PATIENCE_S
        while not is_taken(service):  # once the server has seen the end of that one
            assert time.monotonic() < deadline
            time.sleep(0.02)


def is_taken(service: ServiceProcess) -> bool:
    with connect(service) as client:
        try:
            return ask(client).startswith(b"HTTP/1.1 200 ")
        except BrokenPipeError:
            return False
