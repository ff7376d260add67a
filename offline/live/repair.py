"""Restore Redis from the disk: histories from the archive, layers from the shards.

Records are restored byte for byte, with their remaining time to live. Erased users stay erased.
For a store that has lost nothing, only times to live change.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress

from models.errors import InvalidInput, InvalidRecord
from models.store.contract import Arrival, NightStore
from models.store.events import Event
from models.store.manifest import Layer, Manifest, next_epoch
from models.store.records import hash_user
from offline.disk.archive import read_archive, read_imports
from offline.disk.generation import open_generation
from offline.live.activate import keep_copy
from offline.live.load import load
from offline.settings import PREFIX_TTL_S

_EVENTS_AT_ONCE = 2_000_000  # in memory
_USERS_A_WRITE = 500
_MIN_TTL_S = 3600


async def repair(
    store: NightStore, out_dir: Path, *, progress: Progress, now_s: int | None = None
) -> dict[str, Any]:
    """Restore the store; return the numbers of events and records, and the epoch.

    Raises:
        InvalidInput: no generation was ever activated from here, or shards are missing.
        StoreUnavailable: the store is away.
        ManifestConflict: another job was faster.
    """
    wanted = _read_copy(out_dir)
    for number in sorted(wanted.generations):
        open_generation(out_dir / str(number))  # raises before the first write
    num_events = await _restore_histories(store, out_dir, progress)
    num_records = 0
    for layer in _all_layers(wanted):
        num_records += await _restore_layer(
            layer, wanted, store, out_dir, progress, now_s=now_s or int(time.time())
        )
    epoch = (await _restore_manifest(store, out_dir, wanted)).epoch
    return {"events": num_events, "records": num_records, "epoch": epoch}


def _read_copy(out_dir: Path) -> Manifest:
    file = out_dir / "manifest.json"
    try:
        return Manifest.decode(file.read_bytes())
    except FileNotFoundError:
        raise InvalidInput(f"{file}: missing; no generation was activated from here") from None
    except InvalidRecord as exc:
        raise InvalidInput(f"{file}: {exc}") from exc


def _all_layers(manifest: Manifest) -> list[Layer]:
    canary = manifest.canary.layers if manifest.canary else ()
    found = {layer.generation: layer for layer in (*canary, *manifest.layers)}
    return [found[generation] for generation in sorted(found)]


async def _restore_histories(store: NightStore, out_dir: Path, progress: Progress) -> int:
    """Restore histories in groups of users, so that the archive need not fit into memory."""
    num_archived = sum(1 for _ in read_archive(out_dir))
    num_parts = num_archived // _EVENTS_AT_ONCE + 1
    task = progress.add_task("restore histories", total=num_archived)
    num_new = 0
    for part in range(num_parts):
        histories = _histories(out_dir, part, num_parts)
        users = sorted(histories)
        for start in range(0, len(users), _USERS_A_WRITE):
            some = users[start : start + _USERS_A_WRITE]
            batch = {user: histories[user] for user in some}
            num_new += await store.append_histories(batch, is_logged=False)
        progress.update(task, completed=num_archived * (part + 1) // num_parts)
    for digest, note in read_imports(out_dir).items():
        await store.mark_import(digest, note)
    return num_new


def _histories(out_dir: Path, part: int, num_parts: int) -> dict[str, list[Event]]:
    """Return the events of a share of the users, in order of arrival."""
    arrivals: dict[str, dict[str, Arrival]] = {}
    for user_id, arrival in read_archive(out_dir):
        if hash_user(user_id) % num_parts == part:
            arrivals.setdefault(user_id, {}).setdefault(arrival.event.event_id, arrival)
    return {user_id: list(_in_order(found)) for user_id, found in arrivals.items()}


def _in_order(arrivals: dict[str, Arrival]) -> Iterator[Event]:
    def moment(arrival: Arrival) -> tuple[int, int]:
        stamp, _, number = arrival.entry.partition("-")
        return int(stamp), int(number or 0)

    for arrival in sorted(arrivals.values(), key=moment):
        yield arrival.event


async def _restore_layer(
    layer: Layer,
    manifest: Manifest,
    store: NightStore,
    out_dir: Path,
    progress: Progress,
    *,
    now_s: int,
) -> int:
    left_s = PREFIX_TTL_S - max(now_s - layer.created_at, 0)
    loaded = await load(
        open_generation(out_dir / str(layer.generation)),
        store,
        fingerprint=manifest.fingerprint,
        progress=progress,
        ttl_s=max(left_s, _MIN_TTL_S),
    )
    return len(loaded.user_ids)


async def _restore_manifest(store: NightStore, out_dir: Path, wanted: Manifest) -> Manifest:
    try:
        held = await store.read_manifest()
    except InvalidRecord as exc:
        raise InvalidInput(f"the store's manifest is invalid: delete it first ({exc})") from exc
    if held is not None and held.generations == wanted.generations:
        return held
    if held is not None and held.epoch > wanted.epoch:
        return held  # another generation has gone live since: keep it
    manifest = wanted.model_copy(update={"epoch": next_epoch(held, seen=wanted.epoch)})
    await store.swap_manifest(held, manifest)
    return keep_copy(out_dir, manifest)
