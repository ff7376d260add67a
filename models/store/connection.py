"""Base of the store in Redis: sends commands and batches, and translates errors.

`redis.RedisError` is not known outside this folder. Holds the names of the keys, and uses none.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import RedisClusterException, RedisError

from models.errors import InvalidSettings, StoreFull, StoreUnavailable
from models.store.keys import Keys
from models.store.redis_url import read_redis_url
from models.store.topology import open_topology
from models.store.user_state import is_wrong_type
from models.store.wire import Command

BATCH = 500  # users a pipeline
LOG_LIMIT = 100_000  # entries of the event log


class RedisConnection:
    """A connection to one Redis server, a cluster or the master of sentinels: see `redis_url`.

    Commands that a request waits for go over a `Wire`. Batches of the job go through redis-py. On
    the path of a request nothing is retried: with redis-py 8.1's default policy a GET takes 3.5 to
    5.2 s on a hung server, and the caller can answer without the store.
    """

    def __init__(
        self, url: str, timeout_ms: int, *, namespace: str = "", log_limit: int = LOG_LIMIT
    ) -> None:
        """Make the clients, which connect at the first call.

        Args:
            timeout_ms: the longest wait for each reply. A new connection may take `CONNECT_S`.
            namespace: of all keys, so that a server holds several data sets; "" for none.
            log_limit: entries of the event log that appends keep, about; 0 to log nothing.

        Raises:
            InvalidSettings: the URL or the namespace is not valid.
        """
        self._keys = Keys(namespace)
        parsed = read_redis_url(url)
        self._place = parsed.place
        self.is_cluster = parsed.is_cluster
        self._log_limit = log_limit
        try:
            self._wire, self._redis, self._helpers = open_topology(parsed, timeout_ms)
        except (ValueError, TypeError, OSError, RedisError) as exc:
            detail = exc.strerror if isinstance(exc, OSError) else type(exc).__name__
            raise InvalidSettings(f"Redis URL {self._place}: {detail}") from None
        self._redis.set_response_callback("XREVRANGE", _unparsed)
        self._redis.set_response_callback("XRANGE", _unparsed)

    async def close(self) -> None:
        with self._translated():
            await self._wire.close()
            for client in (self._redis, *self._helpers):
                await client.aclose()

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Return replies in order. A WRONGTYPE error stays among them; any other is raised."""
        with self._translated():
            return _raise_errors(await self._wire.ask(*commands))

    async def _ask_batch(self, commands: Sequence[Command], *, is_one_key: bool) -> list[Any]:
        """Return replies as `_ask`; see `_exchange`."""
        with self._translated():
            return _raise_errors(await self._exchange(commands, is_one_key=is_one_key))

    async def _exchange(self, commands: Sequence[Command], *, is_one_key: bool) -> list[Any]:
        """Return replies in order, errors among them.

        Commands of one key go over the wire. Others go through redis-py, which in a cluster sends
        each to the server of its key.
        """
        if is_one_key:
            with self._translated():
                return await self._wire.ask(*commands)
        pipeline = self._pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        await _deliver_cancellation()
        with self._translated():
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _call(self, *command: Any, **options: Any) -> Any:
        """Run one command through redis-py: one that blocks, or that all servers answer."""
        await _deliver_cancellation()
        with self._translated():
            return await self._redis.execute_command(*command, **options)

    async def _execute(self, pipeline: Any) -> list[Any]:
        """Run a pipeline; return replies as `_ask`."""
        await _deliver_cancellation()
        with self._translated():
            return _raise_errors(await pipeline.execute(raise_on_error=False))

    async def _run(self, pipeline: Any) -> list[Any]:
        """Run a pipeline and return replies in order. Any error among them is raised."""
        await _deliver_cancellation()
        with self._translated():
            replies: list[Any] = await pipeline.execute()
        return replies

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, RedisClusterException, OSError, TimeoutError) as exc:
            detail = _detail_of(exc)
            kind = StoreFull if "maxmemory" in detail else StoreUnavailable
            raise kind(f"Redis at {self._place}: {detail}") from exc
        except RuntimeError as exc:
            if "closed" not in str(exc):
                raise
            # uvloop raises this if the other side has just closed the connection
            raise StoreUnavailable(f"Redis at {self._place}: the connection is closed") from exc


async def _deliver_cancellation() -> None:
    """Raise a cancellation that is pending in this task, such as that of Ctrl-C.

    redis-py 8.1 would lose it: it checks for stray bytes under a time-out of zero, and takes the
    pending cancellation for the end of that time-out.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)


def _detail_of(failure: Exception) -> str:
    """Return its text, in one line."""
    text = str(failure)
    if isinstance(failure, MasterNotFoundError):
        text = text.partition(" : ")[0]  # behind it stand the options of every sentinel's client
    return " ".join(text.split()) or type(failure).__name__


def _unparsed(response: Any, **_: Any) -> Any:
    return response


def _raise_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return replies


def batches(user_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(user_ids), BATCH):
        yield user_ids[start : start + BATCH]
