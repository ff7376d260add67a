"""Redis topologies: one server, a cluster, or the master that sentinels name.

Of each topology there is one client. redis-py discovers the servers: its `RedisCluster` knows the
owner of each slot, its `Sentinel` the address of the master. It also carries the batches of the
job. A `Wire` to the discovered server carries the commands that a request waits for, at a fraction
of the CPU time. Knows nothing of keys but how they hash.
"""

import asyncio
import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ResponseError

from models.store.redis_url import RedisUrl
from models.store.wire import CONNECT_S, Address, Command, Wire, read_address

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # of redis-py to a server; further callers wait as long as for a reply

_CLUSTER_RETRIES = 3  # of a batch, while a cluster elects a new master
_CLUSTER_PAUSE_S = 0.1
_DISCOVERY_PAUSE_S = 0.1  # between discoveries: each takes 3 to 5 ms of the event loop
_MOVED = ("MOVED", "ASK", "CLUSTERDOWN", "READONLY", "TRYAGAIN")
_FIRST_KEY_AT = {"EVAL": 3, "XINFO": 2}  # position of a command's first key if it is not 1


class Topology(NamedTuple):
    """The client of a topology, in its two parts."""

    wire: "Wire | ClusterWire | SentinelWire"  # for commands that a request waits for
    client: Any  # of redis-py, for the batches of the job
    helpers: tuple[Any, ...] = ()  # clients of redis-py to the sentinels, to be closed as well


class ClusterWire:
    """Wires to the masters of a cluster; all commands of one `ask` must be of one slot.

    A command that meets a server which no longer owns its slot, or no server at all, fails at once.
    The slots are discovered again in the background: no request waits for a failover.
    """

    def __init__(self, cluster: redis.asyncio.RedisCluster, seed: Address, timeout_s: float):
        """seed: the server of the URL, with the TLS and the greeting that every server expects."""
        self._cluster = cluster
        self._seed = seed
        self._timeout_s = timeout_s
        self._wires: dict[str, Wire] = {}  # by redis-py's name of the server, "host:port"
        self._discovering: asyncio.Task[None] | None = None
        self._discovered_at = -math.inf  # on the clock of the event loop

    async def ask(self, *commands: Command) -> list[Any]:
        """Return replies as `Wire.ask`.

        Raises its errors, and RedisError or RedisClusterException if no server tells the slots.
        """
        if not self._cluster.nodes_manager.slots_cache:
            await asyncio.shield(self._discover())
        node: Any = self._cluster.get_node_from_key(_first_key(commands[0]))
        try:
            replies = await self._wire_to(node).ask(*commands)
        except (OSError, TimeoutError):
            self._rediscover(failed=node.name)
            raise
        if any(map(_has_moved, replies)):
            self._rediscover()
        return replies

    def reset(self) -> None:
        for wire in self._wires.values():
            wire.reset()

    async def close(self) -> None:
        if self._discovering is not None:
            self._discovering.cancel()
            await asyncio.wait([self._discovering], timeout=self._timeout_s)
        for wire in self._wires.values():
            await wire.close()
        for nodes in ("nodes_cache", "startup_nodes"):  # RedisCluster itself may skip them
            await self._cluster.nodes_manager.aclose(nodes)

    def _wire_to(self, node: Any) -> Wire:
        wire = self._wires.get(node.name)
        if wire is None:
            address = replace(self._seed, host=node.host, port=int(node.port))
            wire = self._wires[node.name] = Wire(address, self._timeout_s)
        return wire

    def _rediscover(self, *, failed: str | None = None) -> None:
        """Discover the slots again, unless that has just happened."""
        if asyncio.get_running_loop().time() >= self._discovered_at + _DISCOVERY_PAUSE_S:
            self._discover(failed)

    def _discover(self, failed: str | None = None) -> "asyncio.Task[None]":
        """Start a discovery, unless one is under way. failed: a server to ask last."""
        if self._discovering is None or self._discovering.done():
            self._discovering = asyncio.create_task(self._read_slots(failed))
            self._discovering.add_done_callback(_log_failure)
        return self._discovering

    async def _read_slots(self, failed: str | None) -> None:
        nodes = self._cluster.nodes_manager
        options: dict[str, Any] = self._cluster.get_connection_kwargs()
        seed = ClusterNode(self._seed.host, self._seed.port, **options)
        # redis-py forgets it for the servers that it names, all of which may get new addresses
        nodes.startup_nodes.setdefault(seed.name, seed)
        try:
            await nodes.initialize(last_failed_node_name=failed)
        finally:
            self._discovered_at = asyncio.get_running_loop().time()


class SentinelWire:
    """A `Wire` to the master that sentinels name.

    While it is connected no sentinel is asked. After a lost connection, a silent server or an error
    that tells of a replica, the next request waits for the sentinels, as long as its time allows.
    """

    def __init__(
        self, sentinel: redis.asyncio.Sentinel, master: str, base: Address, timeout_s: float
    ):
        """base: TLS and greeting for the master; its host and port are ignored."""
        self._sentinel = sentinel
        self._master = master
        self._base = base
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._next: Wire | None = None  # to the named master, until ROLE confirms it
        self._next_place: tuple[str, int] | None = None
        self._finding: asyncio.Task[Wire] | None = None

    async def ask(self, *commands: Command) -> list[Any]:
        """Return replies as `Wire.ask`.

        Raises its errors, and RedisError if no sentinel names a master that is up.
        """
        wire = self._wire
        if wire is None or not wire.is_open:
            wire = await asyncio.shield(self._find_again())
        replies = await wire.ask(*commands)
        if any(map(_is_replica, replies)):
            wire.reset()  # so that the next request asks the sentinels
        return replies

    def reset(self) -> None:
        if self._wire is not None:
            self._wire.reset()

    async def close(self) -> None:
        if self._finding is not None:
            self._finding.cancel()
        for wire in (self._wire, self._next):
            if wire is not None:
                await wire.close()

    def _find_again(self) -> "asyncio.Task[Wire]":
        """Start to find the master, unless that is under way."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find())
            self._finding.add_done_callback(_retrieve_failure)
        return self._finding

    async def _find(self) -> Wire:
        """Connect to the named master and check ROLE.

        Sentinels may still name the old master after a failover, hence step 3 of
        https://redis.io/docs/latest/develop/reference/sentinel-clients/.
        """
        host, port = await self._discover()
        wire = await self._wire_to((host, port))
        (role,) = await wire.ask(("ROLE",))
        if isinstance(role, ResponseError):
            raise role
        if role[0] != b"master":
            wire.reset()
            raise ConnectionRefusedError(f"{host}:{port} is no longer a master")
        if wire is not self._wire:
            logger.info("the master of %s is %s:%d", self._master, host, port)
            old, self._wire = self._wire, wire
            if old is not None:
                await old.close()
        return wire

    async def _discover(self) -> tuple[str, int]:
        try:
            place: tuple[str, int] = await self._sentinel.discover_master(self._master)
        except MasterNotFoundError:
            await self._sentinel.sentinels[0].ping()  # raises the reason if it refuses us
            raise ConnectionRefusedError(f"sentinels name no master {self._master}") from None
        return place

    async def _wire_to(self, place: tuple[str, int]) -> Wire:
        """Return the wire made for this place last time, which may still be connecting."""
        if self._next is not None and self._next is not self._wire and place != self._next_place:
            await self._next.close()
        if self._next is None or place != self._next_place:
            address = replace(self._base, host=place[0], port=place[1])
            self._next, self._next_place = Wire(address, self._timeout_s), place
        return self._next


def open_topology(url: RedisUrl, timeout_ms: int) -> Topology:
    """Make the client of a URL; it connects at the first call.

    Raises ValueError, TypeError, OSError or RedisError for a URL that no client can be made of.
    """
    address, timeout_s = read_address(url.plain), timeout_ms / 1000
    options = _options(timeout_s)
    if url.is_cluster:
        retry = Retry(ConstantBackoff(_CLUSTER_PAUSE_S), _CLUSTER_RETRIES)
        cluster = redis.asyncio.RedisCluster.from_url(url.plain, retry=retry, **options)
        return Topology(ClusterWire(cluster, address, timeout_s), cluster)
    options["retry"] = Retry(NoBackoff(), 0)
    if url.master is not None:
        sentinel = redis.asyncio.Sentinel(  # type: ignore[no-untyped-call]
            url.sentinels, sentinel_kwargs=_connection_options(url.sentinel_plains[0]) | options
        )
        master = sentinel.master_for(url.master, **_connection_options(url.plain), **options)
        wire = SentinelWire(sentinel, url.master, address, timeout_s)
        return Topology(wire, master, tuple(sentinel.sentinels))
    pool = redis.asyncio.BlockingConnectionPool.from_url(url.plain, timeout=timeout_s, **options)
    return Topology(Wire(address, timeout_s), redis.asyncio.Redis.from_pool(pool))


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": max(timeout_s, CONNECT_S),
        "protocol": 2,  # RESP3 adds round trips to every new connection
        "driver_info": None,  # so does CLIENT SETINFO
        "max_connections": MAX_CONNECTIONS,
    }


def _connection_options(plain: str) -> dict[str, Any]:
    """Return the options that a URL gives, without host and port."""
    options: dict[str, Any] = dict(parse_url(plain))
    is_tls = options.pop("connection_class", None) is SSLConnection
    options.pop("host", None)
    options.pop("port", None)
    return options | {"ssl": True} if is_tls else options


def _first_key(command: Command) -> Any:
    """Return a command's first key; the empty key, of slot 0, for PING, which has none."""
    return "" if command[0] == "PING" else command[_FIRST_KEY_AT.get(command[0], 1)]


def _has_moved(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith(_MOVED)


def _is_replica(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("READONLY")


def _log_failure(discovering: "asyncio.Task[None]") -> None:
    if not discovering.cancelled() and (failure := discovering.exception()) is not None:
        logger.warning("the slots of the cluster cannot be read (%s)", type(failure).__name__)


def _retrieve_failure(finding: "asyncio.Task[Wire]") -> None:
    """Log a failure that perhaps no request waits for any more."""
    if not finding.cancelled() and (failure := finding.exception()) is not None:
        logger.debug("no master found (%s)", type(failure).__name__)
