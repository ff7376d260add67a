"""Moves the pointers of a live folder and of the store together, as an operator asks for it.

A learner moves them too, each second. Whoever is late by a moment reads them again.
"""

import argparse
import asyncio
import time
from collections.abc import Callable

from models.errors import ManifestConflict
from models.release.live import LiveFolder, LiveRelease
from models.store.contract import BEGINNING, ModelPointers
from models.store.embedded import resolve
from models.store.model_pointer import ModelPointer
from models.store.redis_store import RedisStore

_REDIS_TIMEOUT_MS = 5000
_TRIES = 5

# Makes the new pointer out of the folder's, if it has one, and the new epoch.
Change = Callable[[ModelPointer | None, int], ModelPointer]


def move_both(options: argparse.Namespace, change: Change) -> ModelPointer:
    """Move the pointers of a live folder and of the configured store; return the new one.

    options: live, redis and namespace.
    """

    async def move(url: str) -> ModelPointer:
        store = RedisStore(url, _REDIS_TIMEOUT_MS, namespace=options.namespace)
        try:
            return await move_pointers(LiveFolder(options.live), store, change)
        finally:
            await store.close()

    with resolve(options.redis, None) as server:
        return asyncio.run(move(server.url))


async def move_pointers(folder: LiveFolder, store: ModelPointers, change: Change) -> ModelPointer:
    """Move both pointers, the folder's first.

    Raises ManifestConflict if others moved them at the same time again and again.
    """
    for rest in reversed(range(_TRIES)):
        held, stored = folder.pointer(), await store.read_model()
        pointer = change(held, 1 + max((each.epoch for each in (held, stored) if each), default=0))
        try:
            folder.move(pointer)
            await store.swap_model(stored, pointer)
            break
        except ManifestConflict:
            if not rest:
                raise
    return pointer


def watermark_of(live: LiveRelease) -> str:
    """Return the entry in the log of the last event that a version has learnt."""
    if live.version.deltas:
        return live.watermark
    return str(live.release.manifest.recipe.get("updates", {}).get("watermark", BEGINNING))


def now_ms() -> int:
    return int(1000 * time.time())
