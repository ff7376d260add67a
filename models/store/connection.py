"""How the stores reach Redis, one server or many, for requests and for the job's batches.

Owns the clients and the translation of their errors; `redis.RedisError` is known nowhere above.
Knows nothing of keys.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import RedisError

from models.errors import InvalidSettings, StoreFull, StoreUnavailable
from models.store.cluster import ClusterWire
from models.store.redis_url import RedisUrl, read_redis_url
from models.store.sentinel import SentinelWire
from models.store.user_state import is_wrong_type
from models.store.wire import CONNECT_S, Command, Wire, read_address

BATCH = 500  # users a pipeline
MAX_CONNECTIONS = 64  # of redis-py; more callers wait for one, as long as for a reply

_CLUSTER_RETRIES = 3  # of a batch, while a cluster finds itself a new master
_CLUSTER_PAUSE_S = 0.1


class RedisConnection:
    """One Redis server, a cluster, or the master that sentinels name: see `redis_url`.

    `timeout_ms` bounds the wait for each reply; a connection has `CONNECT_S` at least to be made.
    What a request waits for goes over a `Wire`; the job's batches go through redis-py, whose pool
    and pipelines take 0.3 ms of CPU a call. Nothing is retried on the request path: redis-py's
    default policy turns a hung server into seconds a GET (3.5 to 5.2 measured with 8.1), and the
    caller has something better to do than to wait.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        """Connects at the first call. Raises InvalidSettings for a URL that is none."""
        asked = read_redis_url(url)
        self._place = asked.place
        self.is_cluster = asked.is_cluster
        try:
            self._wire = _wire(asked, timeout_ms / 1000)
            self._redis, *self._helpers = _clients(asked, timeout_ms)
        except (ValueError, TypeError, OSError, RedisError) as exc:
            detail = exc.strerror if isinstance(exc, OSError) else type(exc).__name__
            raise InvalidSettings(f"Redis URL {self._place}: {detail}") from None
        self._redis.set_response_callback("XREVRANGE", _as_on_the_wire)
        self._redis.set_response_callback("XRANGE", _as_on_the_wire)

    async def close(self) -> None:
        with self._translated():
            await self._wire.close()
            for client in (self._redis, *self._helpers):
                await client.aclose()

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Replies in order; one of the wrong Redis type stays among them as its error."""
        with self._translated():
            return _raise_errors(await self._wire.ask(*commands))

    async def _ask_batch(self, commands: Sequence[Command], *, is_one_key: bool) -> list[Any]:
        """Replies in order, as in `_ask`: over the wire where all are of one key, by redis-py else,
        which finds every key's place in a cluster."""
        if is_one_key:
            return await self._ask(*commands)
        pipeline = self._pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        return await self._execute(pipeline)

    async def _call(self, *command: Any, **options: Any) -> Any:
        """One command through redis-py: those that wait, or that a whole cluster answers."""
        await _deliver_cancellation()
        with self._translated():
            return await self._redis.execute_command(*command, **options)

    async def _execute(self, pipeline: Any) -> list[Any]:
        """Replies in order, as in `_ask`."""
        await _deliver_cancellation()
        with self._translated():
            return _raise_errors(await pipeline.execute(raise_on_error=False))

    async def _run(self, pipeline: Any) -> list[Any]:
        """Replies in order; any error among them is raised."""
        await _deliver_cancellation()
        with self._translated():
            replies: list[Any] = await pipeline.execute()
        return replies

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as exc:
            detail = " ".join(str(exc).split()) or type(exc).__name__
            kind = StoreFull if "maxmemory" in detail else StoreUnavailable
            raise kind(f"Redis at {self._place}: {detail}") from exc
        except RuntimeError as exc:
            if "closed" not in str(exc):
                raise
            # uvloop's word for writing to a connection that the other side has just closed
            raise StoreUnavailable(f"Redis at {self._place}: the connection is closed") from exc


def _wire(asked: RedisUrl, timeout_s: float) -> Wire | ClusterWire | SentinelWire:
    address = read_address(asked.plain)
    if asked.master is not None:
        sentinels = [read_address(plain) for plain in asked.sentinel_plains]
        return SentinelWire(sentinels, asked.master, address, timeout_s)
    return ClusterWire(address, timeout_s) if asked.is_cluster else Wire(address, timeout_s)


def _clients(asked: RedisUrl, timeout_ms: int) -> list[Any]:
    """redis-py's, for the job, and those that it needs itself. Of a cluster it follows moved slots
    by itself, of sentinels their master."""
    options = _options(timeout_ms)
    if asked.is_cluster:
        retry = Retry(ConstantBackoff(_CLUSTER_PAUSE_S), _CLUSTER_RETRIES)
        return [redis.asyncio.RedisCluster.from_url(asked.plain, retry=retry, **options)]
    options["retry"] = Retry(NoBackoff(), 0)
    if asked.master is not None:
        return _master_clients(asked, options)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        asked.plain, timeout=timeout_ms / 1000, **options
    )
    return [redis.asyncio.Redis.from_pool(pool)]


def _master_clients(asked: RedisUrl, options: dict[str, Any]) -> list[Any]:
    assert asked.master is not None
    own = _connection_options(asked.sentinel_plains[0]) | options
    sentinel = redis.asyncio.Sentinel(  # type: ignore[no-untyped-call]
        asked.sentinels, sentinel_kwargs=own
    )
    master = sentinel.master_for(asked.master, **_connection_options(asked.plain), **options)
    return [master, *sentinel.sentinels]


def _connection_options(plain: str) -> dict[str, Any]:
    """What a URL says beside the place."""
    options: dict[str, Any] = dict(parse_url(plain))
    is_tls = options.pop("connection_class", None) is SSLConnection
    options.pop("host", None)
    options.pop("port", None)
    return options | {"ssl": True} if is_tls else options


def _options(timeout_ms: int) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_ms / 1000,
        "socket_connect_timeout": max(timeout_ms / 1000, CONNECT_S),
        "protocol": 2,  # RESP3 adds round trips to every new connection
        "driver_info": None,  # so does CLIENT SETINFO
        "max_connections": MAX_CONNECTIONS,
    }


async def _deliver_cancellation() -> None:
    """Raise a cancellation that came since this task last paused, such as that of Ctrl-C.

    redis-py 8.1 loses it: it looks for stray bytes under a timeout of zero, and there the pending
    cancellation counts as that timeout's own.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)


def _as_on_the_wire(response: Any, **_: Any) -> Any:
    return response


def _raise_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return replies


def batches(user_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(user_ids), BATCH):
        yield user_ids[start : start + BATCH]
