"""Users for a load test: real histories, with records made without a reasoner.

C_u is the online model's own best prefixes, as many as a night with five paths of ten prefixes
leaves on average (33.5 in `bench quality` on Beauty). The finish has the same work as after a real
night; the quality of the answers means nothing.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from bench.common.service_process import run_module
from models.catalog.catalog import Catalog
from models.catalog.dataset import load_dataset
from models.online.finish import Finisher
from models.reasoner.think import MAX_HISTORY
from models.release.release import Release
from models.release.searchers import load_finisher
from models.store.contract import UserStore
from models.store.keys import UserRow
from models.store.manifest import Layer, Manifest, next_epoch
from models.store.records import PrefixRecord, RecordedPrefix
from models.store.redis_store import RedisStore

NUM_PREFIXES = 34
_TEXTS = ("The online model's own best prefixes.",)
_NATS_A_RANK = 0.01
_TIMEOUT_MS = 10_000
_TTL_S = 24 * 3600


def populate(
    redis_url: str, data_dir: Path, release: Release, *, num_users: int, seed: int
) -> list[str]:
    """Import `data_dir`, write a live layer for `num_users` users, and return their shuffled ids.

    Raises StepFailedError if the import fails, StoreUnavailable, or InvalidDataset.
    """
    histories = load_dataset(data_dir).histories
    run_module("offline", "import", "--data", str(data_dir), "--redis", redis_url)
    known = sorted(histories)
    order = np.random.default_rng(seed).permutation(len(known))[:num_users]
    chosen = {
        known[at]: [interaction.item_id for interaction in histories[known[at]]] for at in order
    }
    asyncio.run(go_live(redis_url, release, chosen))
    return list(chosen)


async def go_live(redis_url: str, release: Release, histories: Mapping[str, Sequence[str]]) -> None:
    """Write a live layer for users with these items, oldest first. Raises StoreUnavailable."""
    store = RedisStore(redis_url, _TIMEOUT_MS)
    try:
        await _write_layer(store, release, histories)
    finally:
        await store.close()


async def _write_layer(
    store: UserStore, release: Release, histories: Mapping[str, Sequence[str]]
) -> None:
    now_ms = time.time_ns() // 1_000_000
    layer = Layer(generation=now_ms, created_at=now_ms // 1000, users=len(histories))

    def rows() -> Iterator[UserRow]:
        finisher = load_finisher(release)
        for user_id, items in track(histories.items(), description="write records"):
            prefixes = own_prefixes(finisher, release.catalog, items)
            record = PrefixRecord(
                layer.generation, release.space.fingerprint, layer.created_at, prefixes
            )
            yield UserRow(user_id, record, _TEXTS)

    await store.write_layer(layer.generation, rows(), _TTL_S)
    held = await store.read_manifest()
    manifest = Manifest(
        epoch=next_epoch(held, seen=0),
        fingerprint=release.space.fingerprint,
        base=layer,
        release=f"{release.name}@{release.version}",
    )
    await store.swap_manifest(held, manifest)


def own_prefixes(
    finisher: Finisher, catalog: Catalog, item_ids: Sequence[str]
) -> tuple[RecordedPrefix, ...]:
    """Make C_u without a reasoner: at most NUM_PREFIXES, best first; `item_ids` oldest first."""
    state = finisher.encode(catalog.rows(item_ids[-MAX_HISTORY:]))
    best = catalog.trie.prefixes()[finisher.rank_prefixes(state, count=NUM_PREFIXES)]
    return tuple(
        RecordedPrefix(tuple(codes), 0, -_NATS_A_RANK * rank)
        for rank, codes in enumerate(best.tolist())
    )
