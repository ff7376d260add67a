"""Generations of synthetic users, written as shards in the format of a night.

`python -m offline load` rejects shards in any other format (offline/disk/shards.py). Prefixes are
legal and random; no reasoner runs.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.release.release import Release
from models.store.records import PrefixRecord, RecordedPrefix

_USERS_A_PART = 20_000
THOUGHT = "The user likes Hair Care > Styling Products; Skin Care > Face. Next: Makeup > Eyes."

_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "created_at": pa.int64(),
        "codes": pa.list_(pa.list_(pa.uint16())),
        "path": pa.list_(pa.uint8()),
        "logprob": pa.list_(pa.float32()),
        "support": pa.list_(pa.uint16()),
        "texts": pa.list_(pa.string()),
        "dropped_paths": pa.int32(),
        "tokens": pa.int64(),
    }
)


def user_id(number: int) -> str:
    """Return an id of 14 characters, as most ids of the Beauty data have: its length adds to the
    bytes of a user's keys."""
    return f"synth{number:09d}"


def write_generation(
    out_dir: Path,
    release: Release,
    *,
    num_users: int,
    num_prefixes: int,
    seed: int,
    starts: Sequence[int] | None = None,
) -> int:
    """Write a finished base for users 0..num_users-1 and return its generation number.

    Args:
        starts: per user, index of the first prefix among those of the trie; None draws them.
    """
    number = time.time_ns() // 1_000_000
    folder = out_dir / str(number)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for part, start in enumerate(range(0, num_users, _USERS_A_PART)):
        count = min(_USERS_A_PART, num_users - start)
        known = len(release.catalog.trie.prefixes())
        first = rng.integers(known, size=count) if starts is None else starts[start:][:count]
        table = _draw_part(release, first, start, num_prefixes, created_at=number // 1000)
        pq.write_table(table, folder / f"part-{part:05d}.parquet", compression="zstd")
    (folder / "_SUCCESS.json").write_text(json.dumps(_summarise(release, number, num_users)))
    return number


def _draw_part(
    release: Release,
    first: Sequence[int] | NDArray[np.int64],
    start: int,
    num_prefixes: int,
    *,
    created_at: int,
) -> "pa.Table":
    known, count = release.catalog.trie.prefixes(), len(first)
    step = np.arange(num_prefixes)  # neighbours in the trie, so that no prefix comes twice
    codes = known[(np.asarray(first)[:, None] + step) % len(known)].astype(np.uint16)
    depth = codes.shape[2]
    each = np.arange(0, count * num_prefixes + 1, num_prefixes, dtype=np.int32)
    inner = np.arange(0, count * num_prefixes * depth + 1, depth, dtype=np.int32)
    logprobs = np.tile(-0.01 * step.astype(np.float32), count)
    columns: Sequence[Any] = (
        pa.array([user_id(start + at) for at in range(count)]),
        pa.array(np.full(count, created_at, dtype=np.int64)),
        pa.ListArray.from_arrays(each, pa.ListArray.from_arrays(inner, codes.reshape(-1))),
        pa.ListArray.from_arrays(each, np.zeros(count * num_prefixes, dtype=np.uint8)),
        pa.ListArray.from_arrays(each, logprobs),
        pa.ListArray.from_arrays(each, np.ones(count * num_prefixes, dtype=np.uint16)),
        pa.array([[THOUGHT]] * count),
        pa.array(np.zeros(count, dtype=np.int32)),
        pa.array(np.full(count, 48, dtype=np.int64)),
    )
    return pa.table(list(columns), schema=_SCHEMA)


def _summarise(release: Release, number: int, num_users: int) -> dict[str, Any]:
    return {
        "generation": number,
        "created_at": number // 1000,
        "layer": "base",
        "epoch": None,
        "release": f"{release.name}@{release.version}",
        "users_due": num_users,
        "refreshed": num_users,
        "carried": 0,
        "failed": 0,
    }


def draw_record(
    release: Release, *, generation: int, num_prefixes: int, start: int
) -> PrefixRecord:
    """Return a record of a synthetic user, for counting bytes."""
    known = release.catalog.trie.prefixes()
    rows = (start + np.arange(num_prefixes)) % len(known)
    prefixes = tuple(
        RecordedPrefix(tuple(codes), at % 8, -0.01 * at)
        for at, codes in enumerate(known[rows].tolist())
    )
    return PrefixRecord(generation, release.space.fingerprint, generation // 1000, prefixes)


def as_json(record: PrefixRecord, user: str) -> bytes:
    """Return a record's content as JSON text, to compare its size with the binary record."""
    content = {
        "user_id": user,
        "generation": record.generation,
        "sid_space": f"{record.fingerprint:016x}",
        "created_at": record.created_at,
        "prefixes": [
            {"codes": prefix.codes, "path": prefix.path, "logprob": round(prefix.logprob, 3)}
            for prefix in record.prefixes
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode()
