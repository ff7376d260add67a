"""Activate a loaded generation, or roll back, by compare-and-set of the manifest.

Rows that a worker wrote while the night was running are newer than the night. Activation writes
them over the night's rows before it changes the manifest. After a kill it can be run again and
finishes the rest.

A rollback writes no record: the store keeps the replaced manifests. Like every change it gets a new
epoch.
"""

import time
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from models.durable import write_text
from models.errors import InvalidInput, ManifestConflict
from models.log.tombstones import Tombstones
from models.store.contract import NightStore
from models.store.manifest import Canary, Layer, Manifest, choose_target, go_to, next_epoch
from offline.disk.generation import Generation, finished
from offline.disk.shards import ShardRow, last_epoch, write_part
from offline.disk.visible_rows import ADDED, visible_rows
from offline.live.layers import Joined, join, to_manifest
from offline.live.load import user_row
from offline.settings import PREFIX_TTL_S, TTL_JITTER_S

_SAMPLE = 500  # users of a layer whose records a rollback looks for

_TRIES = 5
_ROWS_A_WRITE = 1000


async def activate(
    generation: Generation,
    store: NightStore,
    *,
    fingerprint: int,
    user_ids: Collection[str],
    canary_percent: float | None = None,
) -> Manifest:
    """Make a generation live for all users or for a canary; return the live manifest.

    user_ids: users with a record in it. For a generation that is already live, only the copy of the
    manifest on disk is written.

    Raises:
        ManifestConflict: a newer night is live, or other jobs keep changing the manifest.
        InvalidInput: the generation is a delta without its base.
    """
    out_dir, users = generation.folder.parent, set(user_ids)
    for _ in range(_TRIES):
        held = await store.read_manifest()
        if held is not None and _is_done(held, generation, canary_percent):
            return keep_copy(out_dir, held)
        _check_newest(generation, held)
        layer = Layer(
            generation=generation.number, created_at=generation.created_at, users=len(users)
        )
        joined = join(
            *(held, layer),
            fingerprint=fingerprint,
            is_base=generation.is_base,
            replaced=generation.replaced,
        )
        await _take_over(generation, store, held, joined, users, fingerprint=fingerprint)
        manifest = to_manifest(
            _recount(joined.layers, len(users)),
            epoch=next_epoch(held, seen=last_epoch(out_dir)),
            fingerprint=fingerprint,
            release=generation.release,
            held=held,
            canary_percent=canary_percent,
        )
        if generation.is_on_demand and held is not None:
            manifest = keep_canary(manifest, held)
        try:
            await store.swap_manifest(held, manifest)
        except ManifestConflict:
            continue  # most likely a worker opened a layer: read the manifest again
        return keep_copy(out_dir, manifest)
    raise ManifestConflict("the manifest keeps changing: other jobs are running")


def keep_canary(manifest: Manifest, held: Manifest) -> Manifest:
    """Keep the canary of `held` below a worker's new layer, which lies on top of it too."""
    if held.canary is None or held.fingerprint != manifest.fingerprint:
        return manifest
    gone = {layer.generation for layer in held.layers} - manifest.generations
    kept = [layer for layer in held.canary.layers if layer.generation not in gone]
    layers = (manifest.layers[0], *kept)
    return manifest.model_copy(
        update={"canary": Canary(percent=held.canary.percent, layers=layers)}
    )


def keep_copy(out_dir: Path, manifest: Manifest) -> Manifest:
    """Copy the live manifest to disk, where it outlives the store; return it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "manifest.json", manifest.encode().decode())
    return manifest


def _is_done(held: Manifest, generation: Generation, canary_percent: float | None) -> bool:
    number = generation.number
    if generation.is_on_demand:
        return number in held.generations
    if canary_percent is None:
        return held.canary is None and number in held.generations
    is_there = held.canary is not None and held.canary.layers[0].generation == number
    return is_there and held.canary is not None and held.canary.percent == canary_percent


def _check_newest(generation: Generation, held: Manifest | None) -> None:
    """Raise ManifestConflict if a night that was planned later is live."""
    workers = _workers_layers(generation.folder.parent)
    newer = [
        layer.generation
        for layer in (held.layers if held is not None else ())
        if layer.generation > generation.number and layer.generation not in workers
    ]
    if newer:
        raise ManifestConflict(
            f"generation {newer[0]} is live and newer than {generation.number}: "
            "another job was faster"
        )


def _workers_layers(out_dir: Path) -> dict[int, Generation]:
    return {each.number: each for each in finished(out_dir) if each.is_on_demand}


async def _take_over(
    generation: Generation,
    store: NightStore,
    held: Manifest | None,
    joined: Joined,
    users: set[str],
    *,
    fingerprint: int,
) -> None:
    """Add rows of other layers that belong to this generation, and their users to `users`.

    These are newer rows of the workers' layers, and all rows of a delta that it absorbs.
    """
    if held is None or held.fingerprint != fingerprint:
        return
    workers = _workers_layers(generation.folder.parent)
    for layer in reversed(held.layers):  # the newest last, so that it wins
        folder = generation.folder.parent / str(layer.generation)
        if layer.generation in workers:
            rows = _newer_rows(folder, generation.created_at)
            await add_rows(generation, store, rows, users, fingerprint=fingerprint)
        if layer == joined.absorbed:
            above = _users_above(generation.folder.parent, layer, joined.layers[1:])
            others = (
                row
                for row in visible_rows(folder)
                if row.thoughts.user_id not in users and row.thoughts.user_id not in above
            )
            await add_rows(generation, store, others, users, fingerprint=fingerprint)


def _users_above(out_dir: Path, absorbed: Layer, kept: Collection[Layer]) -> set[str]:
    """Return the users of kept deltas newer than the absorbed one.

    The newest layer must not hide their rows with older ones.
    """
    newer = [layer for layer in kept if layer.generation > absorbed.generation]
    return {
        row.thoughts.user_id
        for layer in newer
        for row in visible_rows(out_dir / str(layer.generation))
    }


def _newer_rows(folder: Path, since_s: int) -> Iterator[ShardRow]:
    return (row for row in visible_rows(folder) if row.created_at > since_s)


async def add_rows(
    generation: Generation,
    store: NightStore,
    rows: Iterator[ShardRow],
    users: set[str],
    *,
    fingerprint: int,
) -> None:
    """Write rows to the shards, then to the store, except rows erased since their thinking."""
    tombstones = Tombstones.load(generation.folder.parent)
    found = [
        row for row in rows if not tombstones.hides(row.thoughts.user_id, row.created_at * 1000)
    ]
    for start in range(0, len(found), _ROWS_A_WRITE):
        some = found[start : start + _ROWS_A_WRITE]
        name = f"part-{time.time_ns():020d}.parquet"
        write_part(generation.folder / ADDED / name, some)
        await store.write_layer(
            generation.number,
            [user_row(row, generation.number, fingerprint) for row in some],
            PREFIX_TTL_S,
            jitter_s=TTL_JITTER_S,
        )
    users.update(row.thoughts.user_id for row in found)


def _recount(layers: tuple[Layer, ...], num_users: int) -> tuple[Layer, ...]:
    newest, *others = layers
    return (newest.model_copy(update={"users": num_users}), *others)


def check_percent(percent: float) -> float:
    """Return `percent`. Raises InvalidInput unless it is between 0 and 100, exclusive."""
    if not 0 < percent < 100:
        raise InvalidInput(f"a canary of {percent:g} percent, expected more than 0, less than 100")
    return percent


async def rollback(store: NightStore, out_dir: Path, *, to_epoch: int | None = None) -> Manifest:
    """End a canary, or return to the night before or to an epoch; return the live manifest.

    Raises InvalidInput if there is no earlier manifest or its records are gone, ManifestConflict if
    another job was faster.
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
    """Check that the store has the records of a sample of each layer with shards on disk.

    Raises InvalidInput if one is missing.
    """
    for layer in target.layers:
        rows = islice(visible_rows(out_dir / str(layer.generation)), _SAMPLE)
        user_ids = [row.thoughts.user_id for row in rows]
        num_found = await store.count_records(layer.generation, user_ids)
        if num_found < len(user_ids):
            raise InvalidInput(
                f"generation {layer.generation}: only {num_found} of {len(user_ids)} sampled users "
                "still have a record (expired or collected); "
                f"run `python -m offline load --generation {layer.generation}` first"
            )
