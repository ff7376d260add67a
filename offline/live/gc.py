"""Remove old generations from the store and from the disk.

The live generations, the canary's and the ones of some earlier manifests (for a rollback) are kept.
Generations newer than the newest live one are kept too, since they may be loading now.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.errors import InvalidInput
from models.store.contract import NightStore
from models.store.manifest import Manifest
from offline.disk.generation import folders, open_generation

KEEP = 2  # earlier manifests whose generations are kept
_IDLE_S = 24 * 3600


async def collect(store: NightStore, out_dir: Path, *, keep: int = KEEP) -> dict[str, Any]:
    """Remove old generations; return the number of removed keys per generation, and the folders.

    Removes nothing while no generation is live.
    """
    held = await store.read_manifest()
    if held is None:
        return {"keys": {}, "folders": []}
    is_garbage = _garbage_rule(held, (await store.past_manifests())[:keep])
    keys = await store.delete_generations(is_garbage)
    held = await store.read_manifest() or held  # a rollback may have come between
    is_garbage = _garbage_rule(held, (await store.past_manifests())[:keep])
    gone = []
    for folder in folders(out_dir):
        if is_garbage(int(folder.name)) and _is_unused(folder):
            shutil.rmtree(folder)
            gone.append(folder.name)
    return {"keys": {str(number): num for number, num in sorted(keys.items())}, "folders": gone}


def _garbage_rule(held: Manifest, past: Sequence[Manifest]) -> Callable[[int], bool]:
    kept = held.generations.union(*(manifest.generations for manifest in past))
    newest = max(held.generations)
    return lambda generation: generation not in kept and generation < newest


def _is_unused(folder: Path) -> bool:
    """Return True if it was live once or was not modified for a day: no job uses it any more."""
    try:
        has_been_live = open_generation(folder).has_been_live
    except InvalidInput:
        has_been_live = False
    touched_s = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
    return has_been_live or time.time() - touched_s > _IDLE_S
