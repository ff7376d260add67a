"""Erasures that the service was asked for: it may only append, so they are carried out here.

One is settled once nothing of the user is left; whoever is stopped before that is followed by
another worker, and erasing twice does no harm.
"""

import logging
from pathlib import Path

from models.errors import InvalidUserId
from models.store.contract import NightStore
from offline.live.erasure import erase

logger = logging.getLogger(__name__)

_A_TIME = 100
IDLE_MS = 60_000  # an erasure that a worker has had for this long is claimed from it


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
