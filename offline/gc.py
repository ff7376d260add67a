"""Old generations go, from the store and from the disk. What is or may become live stays.

Kept are the live ones, a canary's, those of some manifests before (a rollback wants them), and all
that are newer than the newest live one: such may be loading in this moment.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.manifest import Manifest
from models.store import NightStore
from offline.generation import folders
from offline.shards import is_finished

KEEP = 2  # manifests before the live one


async def collect(store: NightStore, out_dir: Path, *, keep: int = KEEP) -> dict[str, Any]:
    """Remove garbage; what went: keys of the store by generation, folders. Nothing is garbage
    while nothing is live."""
    held = await store.read_manifest()
    if held is None:
        return {"keys": {}, "folders": []}
    is_garbage = _judge_of(held, (await store.past_manifests())[:keep])
    keys = await store.delete_generations(is_garbage)
    held = await store.read_manifest() or held  # a rollback may have come between
    is_garbage = _judge_of(held, (await store.past_manifests())[:keep])
    gone = []
    for folder in folders(out_dir):
        if is_garbage(int(folder.name)) or _is_abandoned(folder, held):
            shutil.rmtree(folder)
            gone.append(folder.name)
    return {"keys": {str(number): num for number, num in sorted(keys.items())}, "folders": gone}


def _judge_of(held: Manifest, past: Sequence[Manifest]) -> Callable[[int], bool]:
    kept = held.generations.union(*(manifest.generations for manifest in past))
    newest = max(held.generations)
    return lambda generation: generation not in kept and generation < newest


def _is_abandoned(folder: Path, held: Manifest) -> bool:
    """Never finished, and older than all that is live."""
    return not is_finished(folder) and int(folder.name) < min(held.generations)
