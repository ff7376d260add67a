"""From shards to the store, and live: load, verify, activate. Each may be done again.

Whatever fails, what was live stays live: a generation is invisible until the manifest names it.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from models.errors import StoreUnavailable
from models.layout import UserRow
from models.manifest import Layer, Manifest, next_epoch
from models.records import PrefixRecord
from models.release import Release
from models.store import UserStore
from offline.plan import Plan
from offline.progress import Stopwatch
from offline.settings import PREFIX_TTL_S
from offline.shards import ShardRow, last_epoch, read_rows, write_text
from offline.thinking import to_record

_SAMPLE = 100  # records decoded again after loading


@dataclass(frozen=True)
class Live:
    """A finished generation on its way. The store is asked through `runner`."""

    folder: Path
    plan: Plan
    release: Release
    store: UserStore
    runner: asyncio.Runner
    progress: Progress
    watch: Stopwatch


def go_live(live: Live, *, num_users: int) -> Manifest:
    """The manifest that names the generation.

    Raises:
        StoreUnavailable: the store went away, or does not hold what was written; try again.
        ManifestConflict: another job activated meanwhile.
    """
    plan = live.plan
    held = live.runner.run(live.store.read_manifest())
    if held is not None and plan.generation in {layer.generation for layer in held.layers}:
        return held
    user_ids = _load(live, num_users)
    with live.watch("verify"):
        live.runner.run(_verify(live, user_ids))
    layer = Layer(generation=plan.generation, created_at=plan.created_at, users=num_users)
    with live.watch("activate"):
        return _activate(live, layer)


def _load(live: Live, num_users: int) -> list[str]:
    """Write the shards into the store; the ids of their users."""
    user_ids: list[str] = []
    task = live.progress.add_task("load", total=num_users)

    def rows() -> Iterator[UserRow]:
        for row in read_rows(live.folder):
            user_ids.append(row.thoughts.user_id)
            yield UserRow(row.thoughts.user_id, _to_record(live, row), row.thoughts.texts)
            live.progress.advance(task)

    with live.watch("load"):
        live.runner.run(live.store.write_layer(live.plan.generation, rows(), PREFIX_TTL_S))
    return user_ids


def _to_record(live: Live, row: ShardRow) -> PrefixRecord:
    return to_record(
        row.thoughts,
        generation=live.plan.generation,
        fingerprint=live.release.space.fingerprint,
        created_at=row.created_at,
    )


async def _verify(live: Live, user_ids: list[str]) -> None:
    """Every record is there, and a sample decodes to what the shards say."""
    generation, space = live.plan.generation, live.release.space
    num_found = await live.store.count_records(generation, user_ids)
    if num_found != len(user_ids):
        raise StoreUnavailable(
            f"the store holds {num_found} of {len(user_ids)} records after loading; is it full?"
        )
    sample = set(random.Random(generation).sample(user_ids, min(_SAMPLE, len(user_ids))))
    for row in read_rows(live.folder):
        if (user_id := row.thoughts.user_id) not in sample:
            continue
        written = _to_record(live, row).encode(user_id)
        state = await live.store.read_user(user_id, [generation], space)
        if state.record != PrefixRecord.decode(written, user_id=user_id, space=space):
            raise StoreUnavailable("a record reads differently from what was written")


def _activate(live: Live, layer: Layer) -> Manifest:
    out_dir = live.folder.parent
    manifest = next_manifest(
        live.plan,
        layer,
        fingerprint=live.release.space.fingerprint,
        release=live.plan.release,
        seen_epoch=last_epoch(out_dir),
    )
    live.runner.run(live.store.swap_manifest(live.plan.held, manifest))
    write_text(out_dir / "manifest.json", manifest.encode().decode())
    return manifest


def next_manifest(
    plan: Plan, layer: Layer, *, fingerprint: int, release: str, seen_epoch: int
) -> Manifest:
    """The manifest that makes `layer` live. seen_epoch: highest one activated from here before."""
    epoch = next_epoch(plan.held, seen=seen_epoch)
    base, deltas = layer, tuple[Layer, ...]()
    if plan.held is not None and not plan.is_base:
        kept = tuple(delta for delta in plan.held.deltas if delta != plan.replaced)
        base, deltas = plan.held.base, (layer, *kept)
    return Manifest(epoch=epoch, fingerprint=fingerprint, base=base, deltas=deltas, release=release)
