"""Everything about one user goes, and no repair brings it back.

The tombstone is written first: whatever is interrupted after it, nothing of the user is loaded,
carried or restored again. The store and the archive are then cleaned; shards keep the hidden rows
until their generation is collected.

The service may only append, so erasures that it is asked for are carried out here. One is settled
once nothing of the user is left; whoever is stopped before that is followed by another worker, and
erasing twice does no harm.
"""

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import InvalidUserId
from models.store.contract import NightStore
from models.store.events import check_user_id
from offline.disk.archive import forget_user
from offline.disk.erased import bury
from offline.disk.generation import folders
from offline.disk.shards import write_text

logger = logging.getLogger(__name__)

_A_TIME = 100
IDLE_MS = 60_000  # an erasure that a worker has had for this long is claimed from it


async def erase(user_id: str, store: NightStore, out_dir: Path, *, now_ms: int) -> dict[str, Any]:
    """What went. Raises InvalidUserId or StoreUnavailable; it can then be run again."""
    check_user_id(user_id)
    bury(out_dir, user_id, now_ms=now_ms)
    num_keys = await store.erase_user(user_id)
    with _alone(out_dir):
        num_events = forget_user(out_dir, user_id)
        num_letters = sum(_forget_dead_letters(folder, user_id) for folder in folders(out_dir))
    return {"keys": num_keys, "archived_events": num_events, "dead_letters": num_letters}


@contextmanager
def _alone(out_dir: Path) -> Iterator[None]:
    """Two who write one part of the archive again would each bring back whom the other erased."""
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
        write_text(file, "".join(f"{line}\n" for line in kept))
    return len(lines) - len(kept)


async def carry_out(
    store: NightStore, out_dir: Path, *, worker: str, idle_ms: int = IDLE_MS
) -> int:
    """How many were erased of all who wait now. Raises StoreUnavailable or OSError."""
    num_erased = 0
    while taken := await store.take_erasures(worker, count=_A_TIME, idle_ms=idle_ms):
        for erasure in taken:
            try:
                now_ms = await store.clock_ms()
                await erase(erasure.user_id, store, out_dir, now_ms=now_ms)
                num_erased += 1
            except InvalidUserId as exc:
                logger.error("an erasure names no user: %s", exc)
            await store.settle_erasures([erasure])
    if num_erased:
        logger.warning("%d users were erased, as they asked", num_erased)
    return num_erased
