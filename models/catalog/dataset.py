"""Reader of a data folder, `interactions.parquet` and `items.parquet`, with validation.

Knows nothing of SIDs, splits or Redis. Any text column may be wholly null or absent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import InvalidDataset

_INTERACTIONS = {
    "user_id": True,
    "item_id": True,
    "pos": True,
    "timestamp": False,
    "t_rel": False,
    "event_id": False,
    "type": False,
    "value": False,
}
_ITEMS = {
    "item_id": True,
    "title": False,
    "brand": False,
    "categories": False,
    "price": False,
    "description": False,
    "categories_all": False,
    "idgenrec_text_id": False,
}
_DAY_S = 24 * 60 * 60


class Interaction(NamedTuple):
    """One event of a user."""

    item_id: str
    timestamp: int  # unix seconds; `pos` if the data have no such column
    pos: int  # orders the events of a user
    event_id: str | None = None  # None: an import derives it from item and time
    type: str = ""  # kind of the interaction, such as "click" or "purchase"
    value: float | None = None  # amount that belongs to it, such as a price

    @property
    def day(self) -> int:
        """Return the UTC day as days since 1970."""
        return self.timestamp // _DAY_S


class ItemText(NamedTuple):
    """Descriptive columns of an item."""

    title: str | None
    brand: str | None
    categories: tuple[str, ...]  # from coarse to fine


@dataclass(frozen=True)
class Dataset:
    """A data folder in memory."""

    histories: dict[str, list[Interaction]]  # by user id, each ordered by `pos`
    items: dict[str, ItemText]  # by item id
    has_times: bool = True  # otherwise the timestamps are positions, and days mean nothing


def load_dataset(path: Path) -> Dataset:
    """Read and validate a data folder.

    Raises:
        InvalidDataset: a missing file, an unknown or missing column, a missing id, a duplicated
            (user, pos) or item, or an interaction with an item that `items.parquet` lacks.
    """
    items = _read_items(path / "items.parquet")
    table = _read_table(path / "interactions.parquet", _INTERACTIONS)
    histories = _read_histories(path / "interactions.parquet", table, items)
    return Dataset(histories, items, "timestamp" in table.column_names)


def _read_items(file: Path) -> dict[str, ItemText]:
    table = _read_table(file, _ITEMS)
    columns = [_texts(table, name) for name in ("item_id", "title", "brand", "categories")]
    items: dict[str, ItemText] = {}
    for row, (item_id, title, brand, categories) in enumerate(zip(*columns, strict=True)):
        if item_id is None:
            raise InvalidDataset(f"{file}:{row}: item_id is missing, expected a non-empty id")
        if item_id in items:
            raise InvalidDataset(f"{file}:{row}: item {item_id!r} again, expected one row an item")
        items[item_id] = ItemText(title, brand, _split_categories(categories))
    return items


def _split_categories(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(" > ") if part.strip()) if text else ()


def _read_histories(
    file: Path, table: pa.Table, items: dict[str, ItemText]
) -> dict[str, list[Interaction]]:
    user_ids, item_ids = _texts(table, "user_id"), _texts(table, "item_id")
    positions = _integers(file, table, "pos")
    timestamps = (
        _integers(file, table, "timestamp") if "timestamp" in table.column_names else positions
    )
    event_ids, types = _texts(table, "event_id"), _texts(table, "type")
    values = _numbers(file, table, "value")
    histories: dict[str, list[Interaction]] = {}
    seen: dict[tuple[str, int], int] = {}
    for row, (user_id, item_id, pos) in enumerate(zip(user_ids, item_ids, positions, strict=True)):
        if user_id is None or item_id is None:
            raise InvalidDataset(f"{file}:{row}: user_id or item_id is missing, expected both")
        if item_id not in items:
            raise InvalidDataset(f"{file}:{row}: item {item_id!r} is not in items.parquet")
        if (earlier := seen.setdefault((user_id, pos), row)) != row:
            raise InvalidDataset(
                f"{file}:{row}: user {user_id!r} has pos {pos} already in row {earlier}, "
                "expected each position once"
            )
        interaction = Interaction(
            item_id, timestamps[row], pos, event_ids[row], types[row] or "", values[row]
        )
        histories.setdefault(user_id, []).append(interaction)
    for history in histories.values():
        history.sort(key=lambda interaction: interaction.pos)
    return histories


def _read_table(file: Path, columns: dict[str, bool]) -> pa.Table:
    if not file.is_file():
        raise InvalidDataset(f"{file}: no such file, expected a Parquet table")
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as exc:
        raise InvalidDataset(f"{file}: not a readable Parquet table ({exc})") from exc
    if unknown := sorted(set(table.column_names) - set(columns)):
        raise InvalidDataset(f"{file}: unknown columns {unknown}, expected among {sorted(columns)}")
    required = {name for name, is_required in columns.items() if is_required}
    if missing := sorted(required - set(table.column_names)):
        raise InvalidDataset(f"{file}: columns {missing} are missing, expected {sorted(required)}")
    return table


def _texts(table: pa.Table, name: str) -> list[str | None]:
    """Return a column as stripped text; a blank, null or absent value becomes None."""
    if name not in table.column_names:
        return [None] * table.num_rows
    values = pc.cast(table[name], pa.string()).to_pylist()
    return [(value.strip() or None) if value is not None else None for value in values]


def _numbers(file: Path, table: pa.Table, name: str) -> list[float | None]:
    """Return a column as floats; a null or absent value becomes None."""
    if name not in table.column_names:
        return [None] * table.num_rows
    try:
        values: list[float | None] = pc.cast(table[name], pa.float64()).to_pylist()
    except pa.ArrowInvalid as exc:
        raise InvalidDataset(f"{file}: column {name!r} is no column of numbers ({exc})") from exc
    return values


def _integers(file: Path, table: pa.Table, name: str) -> list[int]:
    column = table[name]
    if not pa.types.is_integer(column.type):
        raise InvalidDataset(f"{file}: column {name!r} is {column.type}, expected integers")
    values: list[int | None] = column.to_pylist()
    for row, value in enumerate(values):
        if value is None:
            raise InvalidDataset(f"{file}:{row}: {name} is missing, expected an integer")
    return [value for value in values if value is not None]
