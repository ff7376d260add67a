"""The item feed of a learner: files of a folder, and the store's stream, as numbered batches.

    WORK/items/000001.json   a batch, and the places up to which files and stream were read

A batch is on disk before it is applied, so that a repeated run applies the same ones.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.catalog.fed_items import FedItem
from models.durable import make_private, write_durably
from models.errors import InvalidDataset, InvalidRecord
from models.store.contract import BEGINNING, ItemFeed

logger = logging.getLogger(__name__)

_BATCH = 1000  # items


@dataclass
class _Read:
    """Places up to which the sources were read."""

    files: dict[str, int] = field(default_factory=dict)  # bytes by name of the file
    stream: str = BEGINNING


class FeedBatches:
    """Batches of the feed, numbered from 1."""

    def __init__(self, work: Path, folder: Path | None) -> None:
        """folder: of `*.jsonl` and `*.parquet`; None reads the stream alone."""
        self._work, self._folder = work, folder
        self._read = _Read()
        if self.num_batches:
            self._read = _Read(**self._load(self.num_batches)["read"])

    @property
    def num_batches(self) -> int:
        return sum(1 for _ in self._work.glob("[0-9]" * 6 + ".json"))

    def batch(self, number: int) -> list[FedItem]:
        """Return one batch. Raises InvalidDataset if it is missing or damaged."""
        try:
            return [FedItem.check(fields) for fields in self._load(number)["items"]]
        except (OSError, ValueError, KeyError, InvalidRecord) as exc:
            raise InvalidDataset(f"{self._file(number)}: not a batch of items ({exc})") from exc

    async def look(self, store: ItemFeed | None) -> None:
        """Make a batch of the new items, if there are any."""
        read = _Read(dict(self._read.files), self._read.stream)
        items = self._look_into_files(read)
        if store is not None:
            page = await store.read_items(read.stream, _BATCH)
            items += page.items
            read.stream = page.last
        if read == self._read:
            return
        batch = [item.model_dump(mode="json", exclude_defaults=True) for item in items]
        make_private(self._work)
        text = json.dumps({"items": batch, "read": vars(read)})
        write_durably(self._file(self.num_batches + 1), text.encode())
        self._read = read

    def _look_into_files(self, read: _Read) -> list[FedItem]:
        items: list[FedItem] = []
        for file in sorted(self._folder.iterdir()) if self._folder else []:
            start = read.files.get(file.name, 0)
            if file.suffix == ".jsonl":
                data = file.read_bytes()[start:]
                whole = data[: data.rfind(b"\n") + 1]  # a line may still be written
                items += _items_of(file, whole.splitlines())
                if whole:
                    read.files[file.name] = start + len(whole)
            elif file.suffix == ".parquet" and not start:
                items += _items_of_table(file)
                read.files[file.name] = file.stat().st_size
        return items

    def _load(self, number: int) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._file(number).read_text())
        return values

    def _file(self, number: int) -> Path:
        return self._work / f"{number:06d}.json"


def _items_of(file: Path, lines: list[bytes]) -> Iterator[FedItem]:
    for line in lines:
        if line.strip():
            try:
                yield FedItem.decode(line)
            except InvalidRecord as exc:
                logger.warning("%s: a line is skipped: %s", file, exc)


def _items_of_table(file: Path) -> Iterator[FedItem]:
    try:
        rows = pq.read_table(file).to_pylist()
    except (pa.ArrowException, OSError) as exc:
        logger.warning("%s: skipped, not a readable Parquet table (%s)", file, type(exc).__name__)
        return
    known = set(FedItem.model_fields)
    for number, row in enumerate(rows):
        fields = {name: value for name, value in row.items() if name in known and value is not None}
        try:
            yield FedItem.check(fields)
        except InvalidRecord as exc:
            logger.warning("%s:%d: a row is skipped: %s", file, number, exc)
