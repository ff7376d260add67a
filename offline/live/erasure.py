"""Erase all data of a user, so that no repair brings them back.

The tombstone is written first. Even if the erasure is interrupted after it, no data of the user are
loaded, carried over or restored. Then the store and the archive are cleaned. Shards keep the hidden
rows until their generation is collected.

The service may only append to the store, so erasures requested there are carried out here. A
request is settled after all data of the user are gone. If a worker stops before that, another
one repeats the erasure, which is harmless.
"""

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.durable import PRIVATE, write_text
from models.errors import InvalidUserId
from models.log.tombstones import write_tombstone
from models.store.contract import NightStore
from models.store.events import check_user_id
from offline.disk.archive import forget_user
from offline.disk.generation import folders

logger = logging.getLogger(__name__)

_ERASURES_PER_READ = 100
IDLE_MS = 60_000  # another worker claims an erasure that a worker has held for this long


async def erase(user_id: str, store: NightStore, out_dir: Path, *, now_ms: int) -> dict[str, Any]:
    """Erase a user; return the numbers of removed keys, archived events and dead letters.

    Raises InvalidUserId, or StoreUnavailable, after which it can be run again.
    """
    check_user_id(user_id)
    write_tombstone(out_dir, user_id, now_ms=now_ms)
    num_keys = await store.erase_user(user_id)
    with _archive_lock(out_dir):
        num_events = forget_user(out_dir, user_id)
        num_letters = sum(_forget_dead_letters(folder, user_id) for folder in folders(out_dir))
    return {"keys": num_keys, "archived_events": num_events, "dead_letters": num_letters}


@contextmanager
def _archive_lock(out_dir: Path) -> Iterator[None]:
    """Lock the archive. Two jobs that rewrite one part would restore each other's erased user."""
    with (out_dir / "erase.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_dead_letters(folder: Path, user_id: str) -> int:
    file = folder / "failed.jsonl"
    if not file.is_file():
        return 0
    lines = file.read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("user_id") != user_id]
    if len(kept) < len(lines):
        write_text(file, "".join(f"{line}\n" for line in kept), mode=PRIVATE)
    return len(lines) - len(kept)


async def carry_out_erasures(
    store: NightStore, out_dir: Path, *, worker: str, idle_ms: int = IDLE_MS
) -> int:
    """Carry out all waiting erasures; return the number of erased users.

    Raises StoreUnavailable or OSError.
    """
    num_erased = 0
    while taken := await store.take_erasures(worker, count=_ERASURES_PER_READ, idle_ms=idle_ms):
        for erasure in taken:
            try:
                now_ms = await store.clock_ms()
                await erase(erasure.user_id, store, out_dir, now_ms=now_ms)
                num_erased += 1
            except InvalidUserId as exc:
                logger.error("an erasure has an invalid user id: %s", exc)
            await store.settle_erasures([erasure])
    if num_erased:
        logger.warning("erased %d users on request", num_erased)
    return num_erased
