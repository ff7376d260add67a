"""Load a generation from its shards into the store, and verify that it is complete.

Several batches are written at a time, as many as the store takes without slowing the service:
one more while pings are fast, half as many when they are slow. Records are invisible until the
manifest names their generation. Writing them again changes nothing.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.progress import Progress

from models.catalog.sid import SidSpace
from models.errors import StoreFull, StoreUnavailable
from models.log.tombstones import Tombstones
from models.store.contract import Memory, NightStore
from models.store.keys import UserRow
from models.store.records import PrefixRecord
from offline.disk.generation import Generation
from offline.disk.shards import ShardRow
from offline.disk.visible_rows import visible_rows
from offline.live.write_rate import WriteRate
from offline.settings import PREFIX_TTL_S, TTL_JITTER_S
from offline.think.micro_batch import to_record

logger = logging.getLogger(__name__)

SAMPLE = 256  # records read again and compared

_BATCH = 128  # users a write
_PATIENCE_S = 30.0  # with an unavailable store: a failover takes seconds
_RETRY_S = 0.2
_MEMORY_EVERY_S = 0.25
_FULL = 0.97  # of maxmemory


@dataclass
class Loaded:
    """Result of a load."""

    user_ids: list[str] = field(default_factory=list)
    # User id -> encoded record, of a uniform sample of the users.
    sample: dict[str, bytes] = field(default_factory=dict)
    num_retries: int = 0
    seconds: float = 0.0


@dataclass
class _Load:
    generation: Generation
    store: NightStore
    fingerprint: int
    ttl_s: int
    write_rate: WriteRate
    advance: Callable[[int], None]
    loaded: Loaded = field(default_factory=Loaded)
    memory: Memory = field(default_factory=lambda: Memory(0, 0))
    memory_at_s: float = -1.0
    draws: random.Random = field(default_factory=lambda: random.Random(0))

    async def run(self, rows: Iterator[ShardRow]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        first = await self.store.memory()
        try:
            while batch := list(itertools.islice(rows, _BATCH)):
                while len(under_way) >= self.write_rate.num_writes:
                    under_way = await _settle(under_way, asyncio.FIRST_COMPLETED)
                await self._probe_store(first)
                under_way.add(asyncio.create_task(self._write(self._encode(batch))))
                await asyncio.sleep(self.write_rate.pause_s)  # lets the write start, also for 0 s
            await _settle(under_way, asyncio.ALL_COMPLETED)
        finally:
            for task in under_way:
                task.cancel()

    def _encode(self, batch: list[ShardRow]) -> list[UserRow]:
        rows = [user_row(row, self.generation.number, self.fingerprint) for row in batch]
        for row in rows:
            self._sample(row)
            self.loaded.user_ids.append(row.user_id)
        return rows

    def _sample(self, row: UserRow) -> None:
        """Reservoir sampling: every user has the same chance to be in the sample."""
        sample, seen = self.loaded.sample, len(self.loaded.user_ids)
        if len(sample) < SAMPLE:
            sample[row.user_id] = row.record.encode(row.user_id)
        elif (at := self.draws.randrange(seen + 1)) < SAMPLE:
            del sample[next(itertools.islice(sample, at, None))]
            sample[row.user_id] = row.record.encode(row.user_id)

    async def _probe_store(self, first: Memory) -> None:
        """Time a ping and, at intervals, read the memory use of the store. Raises StoreFull."""
        now_s = time.monotonic()
        try:
            await self.store.ping()
            ping_ms = 1000 * (time.monotonic() - now_s)
            if now_s - self.memory_at_s > _MEMORY_EVERY_S:
                self.memory, self.memory_at_s = await self.store.memory(), now_s
                self._check_room(first)
        except StoreFull:
            raise
        except StoreUnavailable:
            self.write_rate.record_failure(now_s)  # the write that follows waits for it
            return
        self.write_rate.record_ping(ping_ms, memory_share=self.memory.share, now_s=now_s)

    def _check_room(self, first: Memory) -> None:
        """Raise StoreFull as soon as the rest will not fit.

        The limit leaves room for the service's own writes.
        """
        used, limit, done = self.memory.used, self.memory.limit, len(self.loaded.user_ids)
        total = self.generation.num_records
        expected = used
        if total and done > 8 * _BATCH and used > first.used:
            expected += int((used - first.used) * (total - done) / done)
        if limit and expected > _FULL * limit:
            raise StoreFull(
                f"the store holds {used:,} of {limit:,} bytes and would need {expected:,}: "
                f"loading stopped after {done:,} of {total:,} users; the live generation is "
                "unchanged. "
                "Raise maxmemory or run `python -m offline gc`, then `python -m offline load`"
            )

    async def _write(self, rows: list[UserRow]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                await self.store.write_layer(
                    self.generation.number, rows, self.ttl_s, jitter_s=TTL_JITTER_S
                )
            except StoreFull:
                raise
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                self.loaded.num_retries += 1
                self.write_rate.record_failure(time.monotonic())
                await asyncio.sleep(_RETRY_S)
            else:
                self.advance(len(rows))
                return


async def load(
    generation: Generation,
    store: NightStore,
    *,
    fingerprint: int,
    progress: Progress,
    ttl_s: int = PREFIX_TTL_S,
    write_rate: WriteRate | None = None,
) -> Loaded:
    """Write every row of a generation, without erased users.

    Raises:
        StoreFull: memory is at its limit, or will be before the last row is written.
        StoreUnavailable: the store stayed away for half a minute.
        InvalidInput: damaged shards.
    """
    started_s, started_ms = time.monotonic(), time.time_ns() // 1_000_000
    task = progress.add_task("load", total=generation.num_records)
    job = _Load(
        *(generation, store, fingerprint, ttl_s, write_rate or WriteRate()),
        lambda count: progress.advance(task, count),
    )
    await job.run(visible_rows(generation.folder))
    await _forget_erased(generation, store, job.loaded, since_ms=started_ms)
    job.loaded.seconds = time.monotonic() - started_s
    return job.loaded


async def _forget_erased(
    generation: Generation, store: NightStore, loaded: Loaded, *, since_ms: int
) -> None:
    """Delete users that were erased during the load: a write may have come after the erasure."""
    tombstones = Tombstones.load(generation.folder.parent)
    gone = {user_id for user_id in loaded.user_ids if tombstones.hides(user_id, since_ms)}
    if gone:
        await store.delete_records(generation.number, sorted(gone))
        loaded.user_ids = [user_id for user_id in loaded.user_ids if user_id not in gone]
        loaded.sample = {user: blob for user, blob in loaded.sample.items() if user not in gone}


async def verify(
    generation: Generation, store: NightStore, *, space: SidSpace, loaded: Loaded | None = None
) -> int:
    """Check that every record is in the store and that a sample reads as it was encoded.

    loaded: result of `load`; read from the shards if not given.

    Returns:
        Number of records found.

    Raises:
        StoreUnavailable: a record is missing or different.
    """
    loaded = loaded or expected_load(generation, space.fingerprint)
    num_found = await store.count_records(generation.number, loaded.user_ids)
    if num_found != len(loaded.user_ids):
        raise StoreUnavailable(
            f"the store holds {num_found} of {len(loaded.user_ids)} records after loading; "
            "is it full, or was it restarted?"
        )
    for user_id, blob in loaded.sample.items():
        state = await store.read_user(user_id, [generation.number], space)
        if state.record != PrefixRecord.decode(blob, user_id=user_id, space=space):
            raise StoreUnavailable("a record in the store differs from the written one")
    return num_found


def expected_load(generation: Generation, fingerprint: int) -> Loaded:
    """Return the expected result of loading this generation, from its shards."""
    loaded = Loaded()
    for row in visible_rows(generation.folder):
        loaded.user_ids.append(row.thoughts.user_id)
        if len(loaded.sample) < SAMPLE:
            found = user_row(row, generation.number, fingerprint)
            loaded.sample[found.user_id] = found.record.encode(found.user_id)
    return loaded


def user_row(row: ShardRow, generation: int, fingerprint: int) -> UserRow:
    """Convert a row of the shards to a row of the store."""
    record = to_record(
        row.thoughts, generation=generation, fingerprint=fingerprint, created_at=row.created_at
    )
    return UserRow(row.thoughts.user_id, record, row.thoughts.texts)


async def _settle(tasks: set["asyncio.Task[None]"], until: str) -> set["asyncio.Task[None]"]:
    """Wait for the first task or for all; return the running ones. Raises a task's exception."""
    if not tasks:
        return tasks
    done, running = await asyncio.wait(tasks, return_when=until)
    for task in done:
        task.result()
    return running
