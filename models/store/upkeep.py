"""Maintenance of the store by the night: past manifests, deletion, memory and arrivals.

Nothing here is on the path of a request.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from models.errors import InvalidRecord
from models.store.connection import batches
from models.store.contract import Arrival, Memory
from models.store.events import DEDUP_LIMIT, decode_event
from models.store.log_stream import RedisLog
from models.store.manifest import Manifest
from models.store.user_state import is_wrong_type

_SCAN_COUNT = 1000
_UNLINK_BATCH = 1000


class RedisUpkeep(RedisLog):
    async def past_manifests(self) -> list[Manifest]:
        (reply,) = await self._ask(("LRANGE", self._keys.past_manifests, 0, -1))
        return decode_manifests([] if is_wrong_type(reply) else reply)

    async def delete_records(self, generation: int, user_ids: Sequence[str]) -> None:
        for batch in batches(user_ids):
            pipeline = self._pipeline()
            for user_id in batch:
                for key in (
                    self._keys.record(user_id, generation),
                    self._keys.thoughts(user_id, generation),
                ):
                    pipeline.execute_command("UNLINK", key)
            await self._run(pipeline)

    async def delete_generations(self, is_garbage: Callable[[int], bool]) -> dict[int, int]:
        deleted: dict[int, int] = {}
        found: list[bytes] = []
        async for key in self._scan(self._keys.layers):
            generation = self._keys.generation_of(key)
            if generation is None or not is_garbage(generation):
                continue
            deleted[generation] = deleted.get(generation, 0) + 1
            found.append(key)
            if len(found) == _UNLINK_BATCH:
                await self._unlink(found)
                found.clear()
        await self._unlink(found)
        return deleted

    async def erase_user(self, user_id: str) -> int:
        keys = [key async for key in self._scan(self._keys.of_user(user_id))]
        await self._unlink(keys)
        await self._forget_requests(user_id)
        await self._forget_logged(user_id)
        return len(keys)

    async def _forget_requests(self, user_id: str) -> None:
        (entries,) = await self._ask(("XRANGE", self._keys.requests, "-", "+"))
        named = user_id.encode()
        found = [] if is_wrong_type(entries) else entries
        gone = [entry for entry, pairs in found if named in pairs[1::2]]
        if gone:
            await self._ask(("XDEL", self._keys.requests, *gone))

    async def memory(self) -> Memory:
        nodes = {"target_nodes": "primaries"} if self.is_cluster else {}
        reply = await self._call("INFO", "memory", **nodes)
        infos = list(reply.values()) if self.is_cluster and "used_memory" not in reply else [reply]
        found = [Memory(int(info["used_memory"]), int(info["maxmemory"])) for info in infos]
        return max(found, key=lambda memory: (memory.share, memory.used))

    async def record_bytes(self, generation: int, user_ids: Sequence[str]) -> float:
        pipeline = self._pipeline()
        for user_id in user_ids:
            key = self._keys.record(user_id, generation)
            pipeline.execute_command("MEMORY USAGE", key, "SAMPLES", "0", keys=[key])
        sizes = [int(size or 0) for size in await self._run(pipeline)] if user_ids else []
        sizes = [size for size in sizes if size]
        return sum(sizes) / max(len(sizes), 1)

    async def read_arrivals(
        self, user_ids: Sequence[str], since_ms: int
    ) -> dict[str, list[Arrival]]:
        arrivals: dict[str, list[Arrival]] = {}
        for batch in batches(user_ids):
            pipeline = self._pipeline()
            for user_id in batch:
                pipeline.execute_command(
                    "XRANGE", self._keys.history(user_id), str(since_ms), "+", "COUNT", DEDUP_LIMIT
                )
            for user_id, reply in zip(batch, await self._execute(pipeline), strict=True):
                arrivals[user_id] = _read_arrivals(reply)
        return arrivals

    async def imports(self) -> dict[str, str]:
        (reply,) = await self._ask(("HGETALL", self._keys.imports))
        pairs = [] if is_wrong_type(reply) else [part.decode(errors="replace") for part in reply]
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    async def clock_ms(self) -> int:
        nodes = {"target_nodes": "random"} if self.is_cluster else {}
        seconds, micros = await self._call("TIME", **nodes)
        return int(seconds) * 1000 + int(micros) // 1000

    async def _scan(self, pattern: str) -> AsyncIterator[bytes]:
        with self._translated():
            async for key in self._redis.scan_iter(match=pattern, count=_SCAN_COUNT):
                yield key

    async def _unlink(self, keys: Sequence[bytes]) -> None:
        pipeline = self._pipeline()
        for key in keys:
            pipeline.execute_command("UNLINK", key)
        if keys:
            await self._run(pipeline)


def decode_manifests(blobs: Sequence[bytes]) -> list[Manifest]:
    """Return the manifests that decode, in order."""
    found = []
    for blob in blobs:
        try:
            found.append(Manifest.decode(blob))
        except InvalidRecord:
            continue
    return found


def _read_arrivals(reply: Any) -> list[Arrival]:
    if is_wrong_type(reply):
        return []
    return [
        Arrival(entry.decode(), event)
        for entry, pair in reply
        if len(pair) == 2 and (event := decode_event(pair[0], pair[1])) is not None
    ]
