"""A shard in progress: an append-only file of micro-batches.

    frame      length u32, CRC32C u32 (big-endian), then as many bytes of JSON
    segment    {"plan": run id, "shard": number}, then batch after batch
    batch      {"row": ...} for each of its users, then {"batch": number, "outcome": ...}

A batch is written in one go and synced before thinking about the next one starts. A kill, a crash
or a full disk may leave bytes behind the last complete batch: they are cut off when the segment is
opened again. Knows nothing of reasoners.
"""

import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import google_crc32c

from models.durable import PRIVATE, sync_folder
from offline.disk.outcome import Outcome
from offline.disk.shards import ShardRow, from_columns, to_columns

logger = logging.getLogger(__name__)

_FRAME = struct.Struct(">II")
_MAX_FRAME_BYTES = 1 << 26  # a torn length must not ask for gigabytes


@dataclass(frozen=True)
class Batch:
    """Result of one micro-batch."""

    rows: tuple[ShardRow, ...]  # of the users with prefixes
    outcome: Outcome


class _Frame(NamedTuple):
    content: dict[str, Any]
    end: int  # offset in the file behind this frame


class Segment:
    """A shard in progress. `batches` holds the batches that are synced to disk."""

    def __init__(
        self, file: Path, *, run_id: str, shard: int, guard: Callable[[], None] | None = None
    ) -> None:
        """Open or create the file. A segment of another plan is emptied.

        guard: called before every write; it raises to prevent the write.
        """
        self.file = file
        self.batches: list[Batch] = []
        self._guard = guard or (lambda: None)
        self._guard()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, PRIVATE)
        try:
            self._recover({"plan": run_id, "shard": shard})
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, batch: Batch) -> None:
        """Write a batch and sync it to disk. Raises OSError with the file's name."""
        frames = [_encode({"row": to_columns(row)}) for row in batch.rows]
        closing = {"batch": len(self.batches), "outcome": asdict(batch.outcome)}
        self._write(b"".join([*frames, _encode(closing)]))
        self.batches.append(batch)

    def _recover(self, head: dict[str, Any]) -> None:
        content = self.file.read_bytes()
        frames = _decode(content)
        first = next(frames, None)
        if first is None or first.content != head:
            os.ftruncate(self._descriptor, 0)
            self._write(_encode(head))
            sync_folder(self.file.parent)
            return
        end = first.end
        for batch, batch_end in _whole_batches(frames):
            self.batches.append(batch)
            end = batch_end
        if end < len(content):
            logger.warning("%s: cut off a torn batch, %d bytes", self.file, len(content) - end)
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)

    def _write(self, content: bytes) -> None:
        self._guard()
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
        except OSError as exc:
            exc.filename = exc.filename or str(self.file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def count_batches(file: Path, *, run_id: str, shard: int) -> int:
    """Count the complete batches of a segment, which another process may be writing to."""
    frames = _decode(file.read_bytes() if file.exists() else b"")
    head = next(frames, None)
    if head is None or head.content != {"plan": run_id, "shard": shard}:
        return 0
    return sum(1 for _ in _whole_batches(frames))


def _encode(content: dict[str, Any]) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()
    return _FRAME.pack(len(body), google_crc32c.value(body)) + body


def _decode(content: bytes) -> Iterator[_Frame]:
    """Yield frames up to the first incomplete one."""
    at = 0
    while at + _FRAME.size <= len(content):
        length, crc = _FRAME.unpack_from(content, at)
        at += _FRAME.size
        body = content[at : at + length]
        if length > _MAX_FRAME_BYTES or len(body) < length or google_crc32c.value(body) != crc:
            return
        at += length
        yield _Frame(json.loads(body), at)


def _whole_batches(frames: Iterator[_Frame]) -> Iterator[tuple[Batch, int]]:
    """Yield each complete batch with the offset of its end."""
    rows: list[ShardRow] = []
    number = 0
    for frame in frames:
        if "row" in frame.content:
            rows.append(from_columns(frame.content["row"]))
        elif frame.content.get("batch") == number:
            counts = dict(frame.content["outcome"])
            failed = [(user_id, reason) for user_id, reason in counts.pop("failed")]
            yield Batch(tuple(rows), Outcome(**counts, failed=failed)), frame.end
            rows, number = [], number + 1
        else:
            return
