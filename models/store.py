"""The store of users: its contract, and the store in Redis (or Valkey).

Nothing above this file knows `redis.RedisError`. What lies under which key and how it is read is
`layout`'s, shared with the twin in `memory_store`.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from models.errors import InvalidSettings, ManifestConflict, StoreUnavailable
from models.events import (
    STREAM_LIMIT,
    Event,
    check_event,
    encode_event,
    fresh_events,
    merge_events,
)
from models.layout import (
    HISTORY_KEYS,
    IMPORTS_KEY,
    MANIFEST_KEY,
    UserRow,
    check_swap,
    encode_row,
    history_key,
    read_texts,
    record_key,
    thoughts_key,
    user_of_history_key,
)
from models.manifest import Manifest
from models.sid import SidSpace
from models.user_state import (
    UserState,
    add_up,
    as_bytes,
    is_wrong_type,
    read_commands,
    read_entries,
)
from models.wire import Command, Wire, read_address

logger = logging.getLogger(__name__)

_BATCH = 500  # users a pipeline
_SCAN_COUNT = 1000

# ARGV[1] is "1" and ARGV[2] the expected bytes, or ARGV[1] is "0" and nothing is expected.
_COMPARE_AND_SET = """
local held = redis.call('GET', KEYS[1])
if (ARGV[1] == '1' and held == ARGV[2]) or (ARGV[1] == '0' and not held) then
  redis.call('SET', KEYS[1], ARGV[3])
  return 1
end
return 0
"""


class UserStore(Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses.

    Those that take a user id raise InvalidUserId for a bad one.
    """

    async def read_user(
        self,
        user_id: str,
        layers: Sequence[int],
        space: SidSpace,
        *,
        known: UserState | None = None,
    ) -> UserState:
        """History, and the newest valid record of `layers` (generations, newest first).

        known: what an earlier read of this user gave. It saves work and changes no result.
        """
        ...

    async def append_events(self, user_id: str, events: Sequence[Event]) -> int:
        """How many were new. Raises InvalidRecord for a bad event, before anything is written."""
        ...

    async def append_histories(self, histories: Mapping[str, Sequence[Event]]) -> int:
        """`append_events` for many users, in two round trips."""
        ...

    async def read_thoughts(self, user_id: str, generation: int) -> tuple[str, ...]:
        """Texts by path number; none when there are none or they do not decode (logged)."""
        ...

    async def write_layer(self, generation: int, rows: Iterable[UserRow], ttl_s: int) -> int:
        """Write a generation that nothing names yet; how many records it now holds.

        Raises InvalidRecord for a record of another generation.
        """
        ...

    async def count_records(self, generation: int, user_ids: Sequence[str]) -> int:
        """How many of these users have a record of `generation`."""
        ...

    async def read_manifest(self) -> Manifest | None:
        """Raises InvalidRecord when the key holds something else."""
        ...

    async def swap_manifest(self, expected: Manifest | None, new: Manifest) -> None:
        """Compare and set. Raises ManifestConflict unless `expected` is what the store holds."""
        ...

    async def user_ids(self) -> list[str]:
        """Every user with a history, sorted."""
        ...

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        """History of each of these users; empty for a user without one."""
        ...

    async def read_import(self, digest: str) -> str | None:
        """The note left when data of this digest were imported whole; None if they were not."""
        ...

    async def mark_import(self, digest: str, note: str) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class RedisStore:
    """A UserStore over one Redis server. `timeout_ms` bounds connecting and each reply.

    What a request waits for goes over one `Wire`; the job's batches go through redis-py, whose
    pool and pipelines take 0.3 ms of CPU a call. Nothing is retried in either: redis-py's default
    policy turns a hung server into seconds a GET (3.5 to 5.2 measured with 8.1), and the caller has
    something better to do than to wait.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        """Connects at the first call. Raises InvalidSettings for a URL that is none."""
        self._place = _without_password(url)
        try:
            self._wire = Wire(read_address(url), timeout_ms / 1000)
            self._redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=timeout_ms / 1000,
                socket_connect_timeout=timeout_ms / 1000,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # RESP3 adds round trips to every new connection
                driver_info=None,  # so does CLIENT SETINFO
            )
        except (ValueError, TypeError) as exc:
            raise InvalidSettings(f"Redis URL {self._place}: {exc}") from exc
        self._redis.set_response_callback("XREVRANGE", _as_on_the_wire)

    async def read_user(
        self,
        user_id: str,
        layers: Sequence[int],
        space: SidSpace,
        *,
        known: UserState | None = None,
    ) -> UserState:
        state = await self._read_user_once(user_id, layers, space, known)
        if "foreign" in state.skipped:
            # Either somebody wrote it there, or the connection gives one request's reply to
            # another. A new one rules out the second, and with it a history of somebody else.
            logger.error("a record of another user was read; the connection is reset")
            self._wire.reset()
            state = await self._read_user_once(user_id, layers, space, None)
        return state

    async def _read_user_once(
        self, user_id: str, layers: Sequence[int], space: SidSpace, known: UserState | None
    ) -> UserState:
        replies = await self._ask(*read_commands(user_id, layers, known))
        state = add_up(user_id, layers, space, replies, known)
        return state or await self._read_user_once(user_id, layers, space, None)

    async def append_events(self, user_id: str, events: Sequence[Event]) -> int:
        return await self.append_histories({user_id: events})

    async def append_histories(self, histories: Mapping[str, Sequence[Event]]) -> int:
        for events in histories.values():
            for event in events:
                check_event(event)
        streams = await self._read_streams(list(histories))
        pipeline, num_new = self._redis.pipeline(transaction=False), 0
        for user_id, events in histories.items():
            for event in fresh_events(streams[user_id], events):
                field, value = encode_event(event)
                pipeline.xadd(
                    history_key(user_id), {field: value}, maxlen=STREAM_LIMIT, approximate=False
                )
                num_new += 1
        await self._run(pipeline)
        return num_new

    async def read_thoughts(self, user_id: str, generation: int) -> tuple[str, ...]:
        (reply,) = await self._ask(("GET", thoughts_key(user_id, generation)))
        return read_texts(as_bytes(reply), user_id)

    async def write_layer(self, generation: int, rows: Iterable[UserRow], ttl_s: int) -> int:
        num_written, left = 0, iter(rows)
        while batch := list(islice(left, _BATCH)):
            pipeline = self._redis.pipeline(transaction=False)
            for row in batch:
                for key, value in encode_row(generation, row).items():
                    pipeline.set(key, value, ex=ttl_s)
            await self._run(pipeline)
            num_written += len(batch)
        return num_written

    async def count_records(self, generation: int, user_ids: Sequence[str]) -> int:
        num_found = 0
        for batch in _batches(user_ids):
            pipeline = self._redis.pipeline(transaction=False)
            for user_id in batch:
                pipeline.exists(record_key(user_id, generation))
            num_found += sum(await self._run(pipeline))
        return num_found

    async def read_manifest(self) -> Manifest | None:
        current = await self._read_manifest_bytes()
        return Manifest.decode(current) if current is not None else None

    async def swap_manifest(self, expected: Manifest | None, new: Manifest) -> None:
        current = await self._read_manifest_bytes()
        check_swap(current, expected, new)
        has_current = "0" if current is None else "1"
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.eval(_COMPARE_AND_SET, 1, MANIFEST_KEY, has_current, current or b"", new.encode())
        (has_swapped,) = await self._run(pipeline)
        if not has_swapped:
            raise ManifestConflict("the manifest changed in between: another job was faster")

    async def user_ids(self) -> list[str]:
        with self._translated():
            keys = [
                key async for key in self._redis.scan_iter(match=HISTORY_KEYS, count=_SCAN_COUNT)
            ]
        users = {user_of_history_key(key) for key in keys}
        return sorted(user_id for user_id in users if user_id is not None)

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        histories: dict[str, tuple[Event, ...]] = {}
        for batch in _batches(user_ids):
            streams = await self._read_streams(batch)
            histories.update((user_id, merge_events(events)) for user_id, events in streams.items())
        return histories

    async def read_import(self, digest: str) -> str | None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(IMPORTS_KEY, digest)
        (note,) = await self._run(pipeline)
        return None if note is None else note.decode(errors="replace")

    async def mark_import(self, digest: str, note: str) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(IMPORTS_KEY, digest, note)
        await self._run(pipeline)

    async def ping(self) -> None:
        await self._ask(("PING",))

    async def close(self) -> None:
        with self._translated():
            await self._wire.close()
            await self._redis.aclose()

    async def _read_streams(self, user_ids: Sequence[str]) -> dict[str, list[Event]]:
        """All kept events of each user, in order of arrival."""
        pipeline = self._redis.pipeline(transaction=False)
        for user_id in user_ids:
            pipeline.xrevrange(history_key(user_id), count=STREAM_LIMIT)
        replies = await self._execute(pipeline)
        streams = {}
        for user_id, reply in zip(user_ids, replies, strict=True):
            entries = reply if is_wrong_type(reply) else reply[::-1]
            streams[user_id], has_lost_history = read_entries(entries)
            if has_lost_history:
                logger.warning("a history holds what is no event of ours; that part is passed over")
        return streams

    async def _read_manifest_bytes(self) -> bytes | None:
        (reply,) = await self._ask(("GET", MANIFEST_KEY))
        return as_bytes(reply)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Replies in order; one of the wrong Redis type stays among them as its error."""
        with self._translated():
            return _raise_errors(await self._wire.ask(*commands))

    async def _execute(self, pipeline: Any) -> list[Any]:
        """The same for a pipeline."""
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
            raise StoreUnavailable(f"Redis at {self._place}: {detail}") from exc


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


def _batches(user_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(user_ids), _BATCH):
        yield user_ids[start : start + _BATCH]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
