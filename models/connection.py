"""How the stores reach Redis: one server or a cluster, for requests and for the job's batches.

Owns the clients and the translation of their errors; `redis.RedisError` is known nowhere above.
Knows nothing of keys.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from models.cluster import ClusterWire
from models.errors import InvalidSettings, StoreFull, StoreUnavailable
from models.user_state import is_wrong_type
from models.wire import Address, Command, Wire, read_address

BATCH = 500  # users a pipeline

_CLUSTER_RETRIES = 3  # of a batch, while a cluster finds itself a new master
_CLUSTER_PAUSE_S = 0.1


class RedisConnection:
    """One Redis server, or with `?cluster=true` in the URL a cluster that the named node is of.

    `timeout_ms` bounds connecting and each reply. What a request waits for goes over a `Wire`; the
    job's batches go through redis-py, whose pool and pipelines take 0.3 ms of CPU a call. Nothing
    is retried on the request path: redis-py's default policy turns a hung server into seconds a GET
    (3.5 to 5.2 measured with 8.1), and the caller has something better to do than to wait.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        """Connects at the first call. Raises InvalidSettings for a URL that is none."""
        self._place = _without_password(url)
        try:
            plain, self.is_cluster = _read_scheme(url)
            address = read_address(plain)
            self._wire: Wire | ClusterWire = (
                ClusterWire(address, timeout_ms / 1000)
                if self.is_cluster
                else Wire(address, timeout_ms / 1000)
            )
            self._redis: Any = (
                _cluster_client(plain, address, timeout_ms)
                if self.is_cluster
                else redis.asyncio.Redis.from_url(
                    plain, retry=Retry(NoBackoff(), 0), **_options(timeout_ms)
                )
            )
        except (ValueError, TypeError, RedisClusterException) as exc:
            raise InvalidSettings(f"Redis URL {self._place}: {exc}") from exc
        self._redis.set_response_callback("XREVRANGE", _as_on_the_wire)
        self._redis.set_response_callback("XRANGE", _as_on_the_wire)

    async def close(self) -> None:
        with self._translated():
            await self._wire.close()
            await self._redis.aclose()

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Replies in order; one of the wrong Redis type stays among them as its error."""
        with self._translated():
            return _raise_errors(await self._wire.ask(*commands))

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


def _options(timeout_ms: int) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_ms / 1000,
        "socket_connect_timeout": timeout_ms / 1000,
        "protocol": 2,  # RESP3 adds round trips to every new connection
        "driver_info": None,  # so does CLIENT SETINFO
    }


def _cluster_client(url: str, address: Address, timeout_ms: int) -> Any:
    """redis-py's client of a whole cluster, for the job: it follows moved slots by itself."""
    if address.path is not None:
        raise ValueError("a cluster is reached by host and port, not by a socket's path")
    retry = Retry(ConstantBackoff(_CLUSTER_PAUSE_S), _CLUSTER_RETRIES)
    return redis.asyncio.RedisCluster.from_url(url, retry=retry, **_options(timeout_ms))


def _read_scheme(url: str) -> tuple[str, bool]:
    """The URL as redis-py reads it, and whether it asks for a cluster."""
    parts = urlsplit(url)
    asked = parse_qs(parts.query).get("cluster", ["false"])[-1]
    if asked not in ("true", "false"):
        raise ValueError(f"cluster={asked}, expected true or false")
    kept = [pair for pair in parts.query.split("&") if pair and not pair.startswith("cluster=")]
    has_database = asked == "true" and parts.scheme != "unix"  # of which a cluster has one alone
    plain = parts._replace(query="&".join(kept), path="" if has_database else parts.path)
    return (url if not parts.query else urlunsplit(plain)), asked == "true"


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


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
