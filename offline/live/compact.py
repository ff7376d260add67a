"""Merge base and deltas into one new base on disk, to be loaded and activated like any other.

There is no thinking: a record keeps the time of its thinking.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.durable import link_or_copy
from models.errors import InvalidInput
from models.night.night_file import NIGHT_ITEMS
from models.store.manifest import Manifest
from offline.disk.generation import Generation, open_generation
from offline.disk.shards import ROWS_PER_PART, ShardRow, write_part, write_summary
from offline.disk.visible_rows import visible_rows


def compact(out_dir: Path, held: Manifest | None, *, now_ms: int) -> Generation:
    """Write the new base and return it. Raises InvalidInput if no delta is live."""
    if held is None or not held.deltas:
        raise InvalidInput("no delta is live: there is nothing to compact")
    number = max(now_ms, max(held.generations) + 1)
    folder = out_dir / str(number)
    rows, num_rows = live_rows(out_dir, held), 0
    while some := list(itertools.islice(rows, ROWS_PER_PART)):
        write_part(folder / f"part-{num_rows // ROWS_PER_PART:05d}.parquet", some)
        num_rows += len(some)
    if (model := out_dir / str(held.base.generation) / NIGHT_ITEMS).is_file():
        link_or_copy(model, folder / NIGHT_ITEMS)
    write_summary(folder, _summarise(held, number, now_ms, num_rows))
    return open_generation(folder)


def live_rows(out_dir: Path, manifest: Manifest) -> Iterator[ShardRow]:
    """Yield each user's row from the newest layer that has one, as a reader of the store does.

    Raises InvalidInput if the shards of a live layer are not on disk.
    """
    seen: set[str] = set()
    for layer in manifest.layers:
        folder = open_generation(out_dir / str(layer.generation)).folder
        for row in visible_rows(folder):
            if row.thoughts.user_id not in seen:
                yield row
        if layer is not manifest.base:
            seen.update(row.thoughts.user_id for row in visible_rows(folder))


def _summarise(held: Manifest, number: int, now_ms: int, num_rows: int) -> dict[str, Any]:
    return {
        "generation": number,
        "created_at": now_ms // 1000,
        "layer": "base",
        "epoch": None,
        "release": held.release,
        "users_due": 0,
        "refreshed": 0,
        "carried": num_rows,
        "failed": 0,
        "compacted": [layer.generation for layer in held.layers],
    }
