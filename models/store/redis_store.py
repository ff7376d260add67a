"""The user store in Redis (or Valkey).

Translates the errors of redis-py: nothing above this folder knows `redis.RedisError`. Keys and
their encoding are defined in `keys`, which the store in memory shares.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import islice

from models.catalog.sid import SidSpace
from models.errors import InvalidRecord, ManifestConflict
from models.store.appends import RedisAppends
from models.store.connection import BATCH, batches
from models.store.contract import FoundUsers
from models.store.events import STREAM_LIMIT, Event, merge_events
from models.store.gate_report import GateReport
from models.store.item_feed import RedisItems
from models.store.keys import PAST_LIMIT, UserRow, check_swap, encode_row, jitter_of, read_texts
from models.store.manifest import Manifest
from models.store.model_pointer import ModelPointer
from models.store.queues import RedisErasures, RedisRequests
from models.store.upkeep import RedisUpkeep
from models.store.user_state import (
    UserState,
    add_up,
    as_bytes,
    newest_last,
    read_commands,
    read_entries,
)
from models.store.wish_turns import WishTurn, decode_turns, encode_turns

logger = logging.getLogger(__name__)

# ARGV[1] is "1" and ARGV[2] the expected bytes, or ARGV[1] is "0" and nothing is expected. With a
# second key the replaced bytes go to the front of the past: a rollback then needs no file on disk.
_COMPARE_AND_SET = f"""
local held = redis.call('GET', KEYS[1])
if (ARGV[1] == '1' and held == ARGV[2]) or (ARGV[1] == '0' and not held) then
  if held and KEYS[2] then
    redis.call('LPUSH', KEYS[2], held)
    redis.call('LTRIM', KEYS[2], 0, {PAST_LIMIT - 1})
  end
  redis.call('SET', KEYS[1], ARGV[3])
  return 1
end
return 0
"""


class RedisStore(RedisAppends, RedisUpkeep, RedisRequests, RedisErasures, RedisItems):
    """The store in Redis or Valkey: a ServingStore, a NightStore and a LearnerStore."""

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
            # Either it was written there, or the connection gives one request's reply to another.
            # A new connection rules out the second, which could also mix up histories.
            logger.error("a record of another user was read; the connection is reset")
            self._wire.reset()
            state = await self._read_user_once(user_id, layers, space, None)
        return state

    async def _read_user_once(
        self, user_id: str, layers: Sequence[int], space: SidSpace, known: UserState | None
    ) -> UserState:
        replies = await self._ask(*read_commands(self._keys, user_id, layers, known))
        state = add_up(user_id, layers, space, replies, known)
        return state or await self._read_user_once(user_id, layers, space, None)

    async def read_thoughts(self, user_id: str, generation: int) -> tuple[str, ...]:
        (reply,) = await self._ask(("GET", self._keys.thoughts(user_id, generation)))
        return read_texts(as_bytes(reply), user_id)

    async def read_wish(self, user_id: str) -> tuple[WishTurn, ...]:
        return decode_turns(await self._read_bytes(self._keys.wish(user_id)))

    async def write_wish(self, user_id: str, turns: Sequence[WishTurn], ttl_s: int) -> None:
        key, expiry_s = self._keys.wish(user_id), ttl_s if turns else 1
        await self._ask(("SET", key, encode_turns(turns), "EX", expiry_s))

    async def write_layer(
        self, generation: int, rows: Iterable[UserRow], ttl_s: int, *, jitter_s: int = 0
    ) -> int:
        num_written, left = 0, iter(rows)
        while batch := list(islice(left, BATCH)):
            pipeline = self._pipeline()
            for row in batch:
                expiry_s = ttl_s + jitter_of(row.user_id, jitter_s)
                for key, value in encode_row(generation, row, self._keys).items():
                    pipeline.execute_command("SET", key, value, "EX", expiry_s)
            await self._run(pipeline)
            num_written += len(batch)
        return num_written

    async def count_records(self, generation: int, user_ids: Sequence[str]) -> int:
        num_found = 0
        for batch in batches(user_ids):
            pipeline = self._pipeline()
            for user_id in batch:
                pipeline.execute_command("EXISTS", self._keys.record(user_id, generation))
            num_found += sum(await self._run(pipeline))
        return num_found

    async def read_manifest(self) -> Manifest | None:
        current = await self._read_bytes(self._keys.manifest)
        return Manifest.decode(current) if current is not None else None

    async def swap_manifest(self, expected: Manifest | None, new: Manifest) -> None:
        current = await self._read_bytes(self._keys.manifest)
        check_swap(current, expected, new)
        if not await self._compare_and_set(
            (self._keys.manifest, self._keys.past_manifests), current, new
        ):
            raise ManifestConflict("the manifest changed in between: another job was faster")

    async def read_gates(self) -> GateReport | None:
        current = await self._read_bytes(self._keys.gates)
        try:
            return GateReport.decode(current) if current is not None else None
        except InvalidRecord as exc:
            logger.warning("%s", exc)
            return None

    async def write_gates(self, report: GateReport) -> None:
        await self._ask(("SET", self._keys.gates, report.encode()))

    async def read_model(self) -> ModelPointer | None:
        current = await self._read_bytes(self._keys.model)
        return ModelPointer.decode(current) if current is not None else None

    async def swap_model(self, expected: ModelPointer | None, new: ModelPointer) -> None:
        current = await self._read_bytes(self._keys.model)
        check_swap(current, expected, new, name="model pointer")
        if not await self._compare_and_set((self._keys.model,), current, new):
            raise ManifestConflict("the model pointer changed in between: another job was faster")

    async def _compare_and_set(
        self, keys: Sequence[str], current: bytes | None, new: Manifest | ModelPointer
    ) -> bool:
        """Set the first key unless it changed; push what it held to the second, if there is one."""
        has_current = "0" if current is None else "1"
        values = (has_current, current or b"", new.encode())
        (has_swapped,) = await self._ask(("EVAL", _COMPARE_AND_SET, len(keys), *keys, *values))
        return bool(has_swapped)

    async def user_ids(self) -> list[str]:
        users = {self._keys.user_of_history(key) async for key in self._scan(self._keys.histories)}
        return sorted(user_id for user_id in users if user_id is not None)

    async def find_users(
        self, start: str, *, limit: int, generation: int | None = None, patience_s: float = 1.0
    ) -> FoundUsers:
        found: set[str] = set()
        try:
            async with asyncio.timeout(patience_s):
                async for key in self._scan(self._keys.of_users(start, generation)):
                    user_id = self._keys.user_of(key)
                    if user_id is not None and user_id not in found and len(found) == limit:
                        return FoundUsers(tuple(sorted(found)), is_complete=False)
                    found.update([user_id] if user_id is not None else [])
        except TimeoutError:
            return FoundUsers(tuple(sorted(found)), is_complete=False)
        return FoundUsers(tuple(sorted(found)), is_complete=True)

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        histories: dict[str, tuple[Event, ...]] = {}
        for batch in batches(user_ids):
            streams = await self._read_streams(batch)
            histories.update((user_id, merge_events(events)) for user_id, events in streams.items())
        return histories

    async def read_import(self, digest: str) -> str | None:
        pipeline = self._pipeline()
        pipeline.hget(self._keys.imports, digest)
        (note,) = await self._run(pipeline)
        return None if note is None else note.decode(errors="replace")

    async def mark_import(self, digest: str, note: str) -> None:
        pipeline = self._pipeline()
        pipeline.hset(self._keys.imports, digest, note)
        await self._run(pipeline)

    async def ping(self) -> None:
        await self._ask(("PING",))

    async def _read_streams(self, user_ids: Sequence[str]) -> dict[str, list[Event]]:
        """Return the kept events of each user, in order of arrival."""
        pipeline = self._pipeline()
        for user_id in user_ids:
            pipeline.xrevrange(self._keys.history(user_id), count=STREAM_LIMIT)
        replies = await self._execute(pipeline)
        streams = {}
        for user_id, reply in zip(user_ids, replies, strict=True):
            streams[user_id], has_lost_history = read_entries(newest_last(reply))
            if has_lost_history:
                logger.warning("skipped entries of a history that are no events")
        return streams

    async def _read_bytes(self, key: str) -> bytes | None:
        (reply,) = await self._ask(("GET", key))
        return as_bytes(reply)
