"""A generation on disk: the truth, of which the store holds a copy.

    OUT/<generation>/plan.json, plan.parquet  what the night was to do (`plan`)
    OUT/<generation>/part-00000.parquet ...   one a shard of the plan, one row a user
    OUT/<generation>/part-00000.segment       a shard in progress (`segment`)
    OUT/<generation>/failed.jsonl             users on whom thinking failed, and why
    OUT/<generation>/_SUCCESS.json            counts and digests; absent from an unfinished one
    OUT/<generation>/summary.json             what the whole night came to; the only file with times
    OUT/manifest.json                         the manifest last activated from here

Files appear by renaming, whole or not at all, and are on the disk before they have their names.
Knows nothing of reasoners or stores.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import InvalidInput, InvalidRecord
from models.reasoner.think import PathPrefix, UserThoughts
from models.store.manifest import Manifest
from offline.disk.outcome import Outcome

ROWS_PER_PART = 1024  # about so many

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
    }
)
_OUTCOME = b"think_ahead.outcome"  # a key of a part's metadata


class ShardRow(NamedTuple):
    """created_at: unix seconds of the thinking, which a carried row keeps.

    digest: of all that the thoughts depend on (`due.digest_history`); "" in a row of a generation
    that did not keep it yet.
    """

    created_at: int
    thoughts: UserThoughts
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
    """A whole part: the same rows and counts give the same bytes.

    outcome: what thinking about its users came to, if they were thought about for this part.
    guard: see `write_durably`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {_OUTCOME: json.dumps(asdict(outcome or Outcome()), sort_keys=True).encode()}
    table = pa.Table.from_pylist(list(map(to_columns, rows)), schema=_SCHEMA.with_metadata(about))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_durably(file, sink.getvalue(), guard=guard)


def read_rows(folder: Path) -> Iterator[ShardRow]:
    """Rows of a generation, shard by shard. Raises InvalidInput for a damaged part."""
    for part in parts(folder):
        yield from read_part(part)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def read_part(part: Path) -> Iterator[ShardRow]:
    """Raises InvalidInput for a damaged part."""
    yield from map(from_columns, read_columns(part).to_pylist())


def read_columns(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of a part, or all; what an older part lacks is null. Raises InvalidInput."""
    schema = _SCHEMA if columns is None else pa.schema([_SCHEMA.field(name) for name in columns])
    try:
        return pq.read_table(
            part, schema=schema, columns=schema.names, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(f"{part}: not a readable shard ({type(exc).__name__})") from exc


def read_outcome(part: Path) -> Outcome:
    """What thinking about this part's users came to. Raises InvalidInput."""
    try:
        about = pq.read_schema(part).metadata
        counts = json.loads(about[_OUTCOME])
        failed = [(str(user_id), str(reason)) for user_id, reason in counts.pop("failed")]
        return Outcome(**counts, failed=failed)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as exc:
        raise InvalidInput(f"{part}: no counts of ours in it ({type(exc).__name__})") from exc


def is_finished(folder: Path) -> bool:
    return (folder / "_SUCCESS.json").is_file()


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Mark a generation as finished, or say more about one that is."""
    write_text(folder / "_SUCCESS.json", json.dumps(summary, indent=1) + "\n")


def write_failed(folder: Path, failed: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"user_id": user_id, "reason": reason}) for user_id, reason in failed]
    if lines:
        write_text(folder / "failed.jsonl", "\n".join(lines) + "\n")


def read_failed(folder: Path) -> list[str]:
    """Ids of the dead letters. Raises InvalidInput for a file that is not ours."""
    file = folder / "failed.jsonl"
    try:
        return [str(json.loads(line)["user_id"]) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{file}: not a list of dead letters ({type(exc).__name__})") from exc


def write_text(file: Path, text: str) -> None:
    write_durably(file, text.encode())


def write_durably(
    file: Path, content: bytes | pa.Buffer, *, guard: Callable[[], None] | None = None
) -> None:
    """The file appears whole, and is on the disk by then. guard: asked before it gets its name.

    Raises OSError with the file's name; what was written of it is gone then, and the space free.
    """
    draft = file.with_name(file.name + ".new")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if guard is not None:
            guard()
        draft.replace(file)
        sync_folder(file.parent)
    except BaseException as exc:
        draft.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            exc.filename = exc.filename or str(file)
        raise


def sync_folder(folder: Path) -> None:
    """What was created, renamed or removed in it stays so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_epoch(out_dir: Path) -> int:
    """Epoch last activated from here, else 0: a store that was wiped does not remember it."""
    try:
        return Manifest.decode((out_dir / "manifest.json").read_bytes()).epoch
    except (FileNotFoundError, InvalidRecord):
        return 0


def to_columns(row: ShardRow) -> dict[str, Any]:
    """A row as plain values, which JSON holds as well."""
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
    }


def from_columns(row: dict[str, Any]) -> ShardRow:
    columns = zip(row["codes"], row["path"], row["logprob"], row["support"], strict=True)
    prefixes = tuple(
        PathPrefix(tuple(codes), path, logprob, support)
        for codes, path, logprob, support in columns
    )
    thoughts = UserThoughts(
        row["user_id"], tuple(row["texts"]), prefixes, row["dropped_paths"], row["tokens"]
    )
    return ShardRow(row["created_at"], thoughts, row["digest"] or "")
