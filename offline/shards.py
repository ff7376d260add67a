"""A generation on disk: the truth, of which the store holds a copy.

    OUT/<generation>/part-00000.parquet ...   one row a user
    OUT/<generation>/failed.jsonl             users on whom thinking failed, and why
    OUT/<generation>/_SUCCESS.json            the summary; absent from an unfinished generation
    OUT/manifest.json                         the manifest last activated from here

Files appear by renaming, whole or not at all. Knows nothing of reasoners or stores.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import InvalidInput, InvalidRecord
from models.manifest import Manifest
from models.think import PathPrefix, UserThoughts

ROWS_PER_PART = 1024

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
    }
)


class ShardRow(NamedTuple):
    """created_at: unix seconds of the thinking, which a carried row keeps."""

    created_at: int
    thoughts: UserThoughts


class ShardWriter:
    """Writes one generation; `close` writes the rest and must be called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._waiting: list[dict[str, Any]] = []
        self._num_parts = 0

    def add(self, row: ShardRow) -> None:
        self._waiting.append(_to_columns(row))
        if len(self._waiting) >= ROWS_PER_PART:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._waiting, schema=_SCHEMA)
        part = self.folder / f"part-{self._num_parts:05d}.parquet"
        pq.write_table(table, part.with_suffix(".new"), compression="zstd")
        part.with_suffix(".new").replace(part)
        self._num_parts += 1
        self._waiting.clear()


def write_part(file: Path, rows: Sequence[ShardRow]) -> None:
    """One part by itself, on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".new")
    table = pa.Table.from_pylist([_to_columns(row) for row in rows], schema=_SCHEMA)
    with draft.open("wb") as stream:
        pq.write_table(table, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def read_rows(folder: Path) -> Iterator[ShardRow]:
    """Rows in the order in which they were added. Raises InvalidInput for a damaged part."""
    for part in sorted(folder.glob("part-*.parquet")):
        try:
            rows = pq.read_table(part, schema=_SCHEMA).to_pylist()
        except (pa.ArrowException, OSError) as exc:
            raise InvalidInput(f"{part}: not a readable shard ({type(exc).__name__})") from exc
        yield from map(_from_columns, rows)


def is_finished(folder: Path) -> bool:
    return (folder / "_SUCCESS.json").is_file()


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Mark a generation as finished, or say more about one that is."""
    write_text(folder / "_SUCCESS.json", json.dumps(summary, indent=1) + "\n")


def write_failed(folder: Path, failed: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"user_id": user_id, "reason": reason}) for user_id, reason in failed]
    if lines:
        write_text(folder / "failed.jsonl", "\n".join(lines) + "\n")


def write_text(file: Path, text: str) -> None:
    draft = file.with_name(file.name + ".new")
    draft.write_text(text)
    draft.replace(file)


def last_epoch(out_dir: Path) -> int:
    """Epoch last activated from here, else 0: a store that was wiped does not remember it."""
    try:
        return Manifest.decode((out_dir / "manifest.json").read_bytes()).epoch
    except (FileNotFoundError, InvalidRecord):
        return 0


def _to_columns(row: ShardRow) -> dict[str, Any]:
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
    }


def _from_columns(row: dict[str, Any]) -> ShardRow:
    columns = zip(row["codes"], row["path"], row["logprob"], row["support"], strict=True)
    prefixes = tuple(
        PathPrefix(tuple(codes), path, logprob, support)
        for codes, path, logprob, support in columns
    )
    thoughts = UserThoughts(
        row["user_id"], tuple(row["texts"]), prefixes, row["dropped_paths"], row["tokens"]
    )
    return ShardRow(row["created_at"], thoughts)
