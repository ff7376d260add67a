"""Reader of data: a data folder, or files as people have them, as histories and items.

Knows nothing of file formats, SIDs, splits or Redis. Any text column may be wholly null or absent.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from models.intake.intake import read_data
from models.intake.summary import Summary

_ITEM_TEXTS = ("item_id", "title", "brand", "categories", "description")
_DAY_S = 24 * 60 * 60

logger = logging.getLogger(__name__)


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
    description: str | None = None  # read where captions are made


@dataclass(frozen=True)
class Dataset:
    """A data set in memory."""

    histories: dict[str, list[Interaction]]  # by user id, each ordered by `pos`
    items: dict[str, ItemText]  # by item id
    has_times: bool = True  # otherwise the timestamps are positions, and days mean nothing


def load_dataset(path: Path) -> Dataset:
    """Read and validate a data folder, or one file of events in a form that the intake knows.

    Data in which a column is ignored, a row dropped or a value guessed are summarised in the log.

    Raises InvalidDataset: no events, or a wrong row; the text names file, row and expectation.
    """
    intake = read_data([path])
    _log(intake.summary)
    has_times = "timestamp" in intake.interactions.column_names
    return Dataset(_to_histories(intake.interactions), _to_items(intake.items), has_times)


def _log(summary: Summary) -> None:
    if summary.dropped or summary.guessed:
        logger.warning("data, with rows dropped or values guessed:\n%s", summary.render())
    elif not summary.is_plain:
        logger.info("data:\n%s", summary.render())


def _to_items(table: "pa.Table") -> dict[str, ItemText]:
    item_ids, titles, brands, categories, descriptions = (
        _values(table, name) for name in _ITEM_TEXTS
    )
    texts = map(ItemText, titles, brands, map(_split_categories, categories), descriptions)
    return dict(zip(item_ids, texts, strict=True))


def _split_categories(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(" > ") if part.strip()) if text else ()


def _to_histories(table: "pa.Table") -> dict[str, list[Interaction]]:
    """Return the histories of the users, in the order of their first rows."""
    positions = _values(table, "pos")
    interactions = map(
        Interaction,
        _values(table, "item_id"),
        _values(table, "timestamp") if "timestamp" in table.column_names else positions,
        positions,
        _values(table, "event_id"),
        [kind or "" for kind in _values(table, "type")],
        _values(table, "value"),
    )
    histories: dict[str, list[Interaction]] = {}
    for user_id, interaction in zip(_values(table, "user_id"), interactions, strict=True):
        histories.setdefault(user_id, []).append(interaction)
    for history in histories.values():
        history.sort(key=lambda interaction: interaction.pos)
    return histories


def _values(table: "pa.Table", name: str) -> Sequence[Any]:
    """Return a column as Python values; equal ids are one object. An absent column is all None."""
    if name not in table.column_names:
        return [None] * table.num_rows
    column = table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        names = column.dictionary.to_pylist()
        return [names[code] for code in column.indices.to_numpy().tolist()]
    values: list[Any] = column.to_pylist()
    return values
