"""Back to what was live before: one compare-and-set, no record is written.

The store keeps the manifests that were replaced. A rollback takes a new epoch like every change.
"""

from itertools import islice
from pathlib import Path

from models.errors import InvalidInput
from models.store.contract import NightStore
from models.store.manifest import Manifest, choose_target, go_to
from offline.disk.erased import living_rows
from offline.disk.shards import last_epoch
from offline.live.activate import keep_copy

_SAMPLE = 500  # users whose records must still be there


async def rollback(store: NightStore, out_dir: Path, *, to_epoch: int | None = None) -> Manifest:
    """End a canary, or go back one night, or to the layers of an epoch; what is then live.

    Raises InvalidInput when there is nothing to go back to or its records are gone,
    ManifestConflict when another job was faster.
    """
    held = await store.read_manifest()
    if held is None:
        raise InvalidInput("nothing is live: there is nothing to roll back")
    target = choose_target(held, await store.past_manifests(), to_epoch=to_epoch)
    await _check_records(target, store, out_dir)
    manifest = go_to(target, held, seen=last_epoch(out_dir))
    await store.swap_manifest(held, manifest)
    return keep_copy(out_dir, manifest)


async def _check_records(target: Manifest, store: NightStore, out_dir: Path) -> None:
    """A sample of each layer's users, where its shards are at hand, still has its records."""
    for layer in target.layers:
        rows = islice(living_rows(out_dir / str(layer.generation)), _SAMPLE)
        user_ids = [row.thoughts.user_id for row in rows]
        num_found = await store.count_records(layer.generation, user_ids)
        if num_found < len(user_ids):
            raise InvalidInput(
                f"generation {layer.generation}: of {len(user_ids)} users looked at, {num_found} "
                "still have a record: it has expired or was collected; "
                f"run `python -m offline load --generation {layer.generation}` first"
            )
