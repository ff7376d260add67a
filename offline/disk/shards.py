"""A generation on disk: the truth, of which the store holds a copy.

    OUT/<generation>/plan.json, plan-*.parquet  the plan of the night (`plan_file`)
    OUT/<generation>/part-00000.parquet ...     one part per shard of the plan, one row per user
    OUT/<generation>/part-00000.segment         a shard in progress (`segment`)
    OUT/<generation>/failed.jsonl               dead letters: failed users, with the reason
    OUT/<generation>/_SUCCESS.json              counts and digests; absent until it is finished
    OUT/<generation>/summary.json               summary of the whole night; the only file with times
    OUT/manifest.json                           the manifest last activated from here

A file is synced to disk under a draft name and then renamed, so it appears complete or not at all.
Knows nothing of reasoners or stores.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from models.durable import PRIVATE, write_durably, write_text
from models.errors import InvalidInput, InvalidRecord
from models.reasoner.think import NightItem, PathPrefix, UserThoughts
from models.store.manifest import Manifest
from offline.disk.outcome import Outcome

ROWS_PER_PART = 1024  # approximately

_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "created_at": pa.int64(),
        "codes": pa.list_(pa.list_(pa.uint16())),  # the prefixes, best first
        "path": pa.list_(pa.uint8()),
        "logprob": pa.list_(pa.float32()),
        "support": pa.list_(pa.uint16()),
        "texts": pa.list_(pa.string()),
        "dropped_paths": pa.int32(),
        "tokens": pa.int64(),
        "digest": pa.string(),
        "item_codes": pa.list_(pa.list_(pa.uint16())),  # SIDs, largest bonus first
        "item_bonus": pa.list_(pa.float32()),
    }
)
_OUTCOME = b"think_ahead.outcome"  # a key of a part's metadata


class ShardRow(NamedTuple):
    """Thoughts of one user."""

    created_at: int  # unix seconds of the thinking; a carried row keeps it
    thoughts: UserThoughts
    # Digest of everything that the thoughts depend on (`due.digest_history`); "" in older
    # generations, which have none.
    digest: str = ""


def part_file(folder: Path, shard: int) -> Path:
    return folder / f"part-{shard:05d}.parquet"


def write_part(
    file: Path,
    rows: Sequence[ShardRow],
    outcome: Outcome | None = None,
    *,
    guard: Callable[[], None] | None = None,
) -> None:
    """Write a complete part. Equal rows and counts give equal bytes.

    outcome: counts of the thinking for this part; zeros if its rows come from elsewhere.
    guard: see `write_durably`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {_OUTCOME: json.dumps(asdict(outcome or Outcome()), sort_keys=True).encode()}
    table = pa.Table.from_pylist(list(map(to_columns, rows)), schema=_SCHEMA.with_metadata(about))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_durably(file, sink.getvalue(), guard=guard, mode=PRIVATE)


def read_rows(folder: Path) -> Iterator[ShardRow]:
    """Yield the rows of a generation, shard by shard. Raises InvalidInput for a damaged part."""
    for part in parts(folder):
        yield from read_part(part)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def read_part(part: Path) -> Iterator[ShardRow]:
    """Yield the rows of one part. Raises InvalidInput for a damaged part."""
    yield from map(from_columns, read_columns(part).to_pylist())


def read_columns(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a part (None: all). A column that an older part lacks is null.

    Raises InvalidInput for a damaged part.
    """
    schema = _SCHEMA if columns is None else pa.schema([_SCHEMA.field(name) for name in columns])
    try:
        return pq.read_table(
            part, schema=schema, columns=schema.names, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(f"{part}: not a readable shard ({type(exc).__name__})") from exc


def read_outcome(part: Path) -> Outcome:
    """Read the counts of the thinking for this part. Raises InvalidInput."""
    try:
        about = pq.read_schema(part).metadata
        counts = json.loads(about[_OUTCOME])
        failed = [(str(user_id), str(reason)) for user_id, reason in counts.pop("failed")]
        return Outcome(**counts, failed=failed)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as exc:
        raise InvalidInput(f"{part}: no counts in its metadata ({type(exc).__name__})") from exc


def is_finished(folder: Path) -> bool:
    return (folder / "_SUCCESS.json").is_file()


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write `_SUCCESS.json`, which marks a generation as finished, or replace it."""
    write_text(folder / "_SUCCESS.json", json.dumps(summary, indent=1) + "\n")


def write_failed(folder: Path, failed: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"user_id": user_id, "reason": reason}) for user_id, reason in failed]
    if lines:
        write_text(folder / "failed.jsonl", "\n".join(lines) + "\n", mode=PRIVATE)


def read_failed(folder: Path) -> list[str]:
    """Read the ids of the dead letters. Raises InvalidInput for a file in another format."""
    file = folder / "failed.jsonl"
    try:
        return [str(json.loads(line)["user_id"]) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{file}: not a list of dead letters ({type(exc).__name__})") from exc


def last_epoch(out_dir: Path) -> int:
    """Return the epoch last activated from here, or 0. A wiped store does not remember it."""
    try:
        return Manifest.decode((out_dir / "manifest.json").read_bytes()).epoch
    except (FileNotFoundError, InvalidRecord):
        return 0


def to_columns(row: ShardRow) -> dict[str, Any]:
    """Convert a row to plain values, which JSON can hold too."""
    thoughts = row.thoughts
    return {
        "user_id": thoughts.user_id,
        "created_at": row.created_at,
        "codes": [list(prefix.codes) for prefix in thoughts.prefixes],
        "path": [prefix.path for prefix in thoughts.prefixes],
        "logprob": [prefix.logprob for prefix in thoughts.prefixes],
        "support": [prefix.support for prefix in thoughts.prefixes],
        "texts": [text.encode("utf-8", "replace").decode() for text in thoughts.texts],
        "dropped_paths": thoughts.dropped_paths,
        "tokens": thoughts.tokens,
        "digest": row.digest,
        "item_codes": [list(item.codes) for item in thoughts.items],
        "item_bonus": [item.bonus for item in thoughts.items],
    }


def from_columns(row: dict[str, Any]) -> ShardRow:
    columns = zip(row["codes"], row["path"], row["logprob"], row["support"], strict=True)
    prefixes = tuple(
        PathPrefix(tuple(codes), path, logprob, support)
        for codes, path, logprob, support in columns
    )
    # Older parts and segments have no items.
    items = zip(row.get("item_codes") or (), row.get("item_bonus") or (), strict=True)
    thoughts = UserThoughts(
        row["user_id"],
        tuple(row["texts"]),
        prefixes,
        row["dropped_paths"],
        row["tokens"],
        tuple(NightItem(tuple(codes), bonus) for codes, bonus in items),
    )
    return ShardRow(row["created_at"], thoughts, row["digest"] or "")
