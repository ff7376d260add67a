"""The store of users: its contract, and the store in Redis (or Valkey).

Nothing above this file knows `redis.RedisError`. What lies under which key and how it is read is
`layout`'s, shared with the twin in `memory_store`.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from models.errors import InvalidSettings, ManifestConflict, StoreUnavailable
from models.events import (
    STREAM_LIMIT,
    Event,
    check_event,
    decode_event,
    encode_event,
    fresh_events,
    merge_events,
)
from models.layout import (
    HISTORY_KEYS,
    IMPORTS_KEY,
    MANIFEST_KEY,
    Skipped,
    UserRow,
    check_swap,
    encode_row,
    history_key,
    newest_record,
    read_texts,
    record_key,
    thoughts_key,
    user_of_history_key,
)
from models.manifest import Manifest
from models.records import PrefixRecord
from models.sid import SidSpace

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


@dataclass(frozen=True)
class UserState:
    """One user as read in one round trip.

    history: oldest first, deduplicated, at most HISTORY_LIMIT. record: the newest valid one of the
    live layers. skipped: why newer layers were passed over. has_lost_history: the history's key
    holds something else, or some of its entries do.
    """

    history: tuple[Event, ...]
    record: PrefixRecord | None
    skipped: tuple[Skipped, ...] = ()
    has_lost_history: bool = False


class UserStore(Protocol):
    """Every method raises StoreUnavailable when the store does not answer in time or refuses.

    Those that take a user id raise InvalidUserId for a bad one.
    """

    async def read_user(self, user_id: str, layers: Sequence[int], space: SidSpace) -> UserState:
        """History, and the newest valid record of `layers` (generations, newest first)."""
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

    Nothing is retried here: redis-py's default policy turns a hung server into seconds a GET
    (3.5 to 5.2 measured with 8.1), and the caller has something better to do than to wait.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        """Connects at the first call. Raises InvalidSettings for a URL that is none."""
        self._place = _without_password(url)
        try:
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

    async def read_user(self, user_id: str, layers: Sequence[int], space: SidSpace) -> UserState:
        state = await self._read_user_once(user_id, layers, space)
        if "foreign" in state.skipped:
            # Either somebody wrote it there, or a connection gives one request's reply to another.
            # New connections rule out the second, and with it a history of somebody else.
            logger.error("a record of another user was read; all connections are reset")
            await self._redis.connection_pool.disconnect(inuse_connections=True)
            state = await self._read_user_once(user_id, layers, space)
        return state

    async def _read_user_once(
        self, user_id: str, layers: Sequence[int], space: SidSpace
    ) -> UserState:
        pipeline = self._redis.pipeline(transaction=False)
        for generation in layers:
            pipeline.get(record_key(user_id, generation))
        pipeline.xrevrange(history_key(user_id), count=STREAM_LIMIT)
        *replies, entries = await self._execute(pipeline)
        blobs = [_as_bytes(reply) for reply in replies]
        record, skipped = newest_record(user_id, layers, blobs, space)
        events, has_lost_history = _as_events(entries)
        return UserState(merge_events(events), record, skipped, has_lost_history)

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
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(thoughts_key(user_id, generation))
        (reply,) = await self._execute(pipeline)
        return read_texts(_as_bytes(reply), user_id)

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
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.ping()
        await self._run(pipeline)

    async def close(self) -> None:
        with self._translated():
            await self._redis.aclose()

    async def _read_streams(self, user_ids: Sequence[str]) -> dict[str, list[Event]]:
        """All kept events of each user, in order of arrival."""
        pipeline = self._redis.pipeline(transaction=False)
        for user_id in user_ids:
            pipeline.xrevrange(history_key(user_id), count=STREAM_LIMIT)
        replies = await self._execute(pipeline)
        streams = {}
        for user_id, reply in zip(user_ids, replies, strict=True):
            streams[user_id], has_lost_history = _as_events(reply)
            if has_lost_history:
                logger.warning("a history holds what is no event of ours; that part is passed over")
        return streams

    async def _read_manifest_bytes(self) -> bytes | None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(MANIFEST_KEY)
        (reply,) = await self._execute(pipeline)
        return _as_bytes(reply)

    async def _execute(self, pipeline: Any) -> list[Any]:
        """Replies in order; one of the wrong Redis type stays among them as its error."""
        await _deliver_cancellation()
        with self._translated():
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception) and not _is_wrong_type(reply):
                    raise reply
        return replies

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


def _is_wrong_type(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _as_bytes(reply: Any) -> bytes | None:
    """A value as read; a key of the wrong type reads as bytes that decode to nothing."""
    return b"" if _is_wrong_type(reply) else cast("bytes | None", reply)


def _as_events(reply: Any) -> tuple[list[Event], bool]:
    """Entries of XREVRANGE as events in order of arrival; whether any was not one of ours."""
    if _is_wrong_type(reply):
        return [], True
    found = [
        decode_event(field, value)
        for _, fields in reversed(reply)
        for field, value in fields.items()
    ]
    events = [event for event in found if event is not None]
    return events, len(events) < len(found)


def _batches(user_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(user_ids), _BATCH):
        yield user_ids[start : start + _BATCH]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
