"""Export of a data folder: the base folder's events and the archive's, each once.

Items are those of the base folder, of a release's catalog and of the item feed, the later one
counting. Events of other items are left out, and so are withdrawn items with their events. Erased
users are hidden. Knows nothing of SIDs or of weights of types.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from models.catalog.catalog import Catalog
from models.catalog.dataset import ItemText, load_dataset
from models.catalog.fed_items import FedItem
from models.durable import make_private, sync_folder, write_durably
from models.errors import InvalidInput
from models.intake.users_table import USERS, load_users
from models.log.tombstones import Tombstones
from models.store.contract import BEGINNING, ItemFeed
from models.store.events import Event
from offline.disk.archive import read_archive
from offline.plan.importer import to_events

_ITEMS_A_READ = 1000

Histories = dict[str, dict[str, Event]]  # user id -> event id -> event


class ExportCounts(NamedTuple):
    """Counts of one export."""

    users: int
    events: int
    new_events: int  # that the base folder does not have
    items: int
    left_out: int  # events of items that are unknown or withdrawn


class Window(NamedTuple):
    """Events that an export takes."""

    tombstones: Tombstones
    until_s: int | None  # unix seconds; only events before it

    def takes(self, user_id: str, event: Event, arrived_ms: int) -> bool:
        is_early = self.until_s is None or event.timestamp < self.until_s
        return is_early and not self.tombstones.hides(user_id, arrived_ms)


def export_dataset(
    out_dir: Path,
    to: Path,
    *,
    base: Path | None,
    catalog: Catalog | None,
    fed: Iterable[FedItem],
    until_s: int | None = None,
) -> ExportCounts:
    """Write the data folder `to`, which appears complete or not at all.

    Args:
        out_dir: folder of generations, with the archive and the tombstones.
        base: a data folder to begin with.
        catalog: items that the base folder lacks.
        fed: items of the feed, in order.

    Raises:
        InvalidInput: `to` exists, there are no items, or a file is damaged.
        InvalidDataset: the base folder is not valid.
    """
    if to.exists():
        raise InvalidInput(f"{to}: exists already, expected a folder to be made")
    window = Window(Tombstones.load(out_dir), until_s)
    items, histories = _read_base(base, window) if base is not None else ({}, {})
    num_base = sum(map(len, histories.values()))
    _add_archive(histories, out_dir, window)
    num_all = sum(map(len, histories.values()))
    items = _add_items(items, catalog, fed)
    if not items:
        raise InvalidInput("no items to export: give --data, or --release for its catalog")
    kept = {user_id: _in_order(events.values(), items) for user_id, events in histories.items()}
    kept = {user_id: events for user_id, events in kept.items() if events}
    num_kept = sum(map(len, kept.values()))
    _write(to, items, kept, _users_of(base, kept, window.tombstones))
    return ExportCounts(len(kept), num_kept, num_all - num_base, len(items), num_all - num_kept)


async def read_feed(store: ItemFeed) -> list[FedItem]:
    """Return all items that the feed holds, in order. Raises StoreUnavailable."""
    found: list[FedItem] = []
    page = await store.read_items(BEGINNING, _ITEMS_A_READ)
    after = BEGINNING
    while page.last != after:
        found += page.items
        after = page.last
        page = await store.read_items(after, _ITEMS_A_READ)
    return found


def _read_base(base: Path, window: Window) -> tuple[dict[str, ItemText], Histories]:
    dataset = load_dataset(base)
    histories: Histories = {}
    for user_id, history in dataset.histories.items():
        for event in to_events(history):
            if window.takes(user_id, event, event.timestamp * 1000):
                histories.setdefault(user_id, {})[event.event_id] = event
    return dict(dataset.items), histories


def _add_archive(histories: Histories, out_dir: Path, window: Window) -> None:
    for user_id, arrival in read_archive(out_dir):
        event = arrival.event
        if window.takes(user_id, event, arrival.arrived_ms):
            histories.setdefault(user_id, {}).setdefault(event.event_id, event)


def _add_items(
    base: Mapping[str, ItemText], catalog: Catalog | None, fed: Iterable[FedItem]
) -> dict[str, ItemText]:
    items = dict(base)
    if catalog is not None:
        texts = zip(catalog.titles, catalog.brands, catalog.categories, strict=True)
        for item_id, text in zip(catalog.item_ids, texts, strict=True):
            items.setdefault(item_id, ItemText(*text))
    for item in fed:
        if item.withdrawn:
            items.pop(item.item_id, None)
        else:
            items[item.item_id] = ItemText(
                item.title, item.brand, item.categories, item.description
            )
    return items


def _in_order(events: Iterable[Event], items: Mapping[str, ItemText]) -> list[Event]:
    """Return the events of known items, oldest first; of one time in order of arrival."""
    known = (event for event in events if event.item_id in items)
    return sorted(known, key=lambda event: event.timestamp)


def _users_of(
    base: Path | None, kept: Mapping[str, list[Event]], tombstones: Tombstones
) -> list[dict[str, str]]:
    """Return the attributes of users with events; not those of a user who was ever erased."""
    users = load_users(base) if base is not None else {}
    return [
        {"user_id": user_id, **attributes}
        for user_id, attributes in sorted(users.items())
        if user_id in kept and not tombstones.hides(user_id, 0)
    ]


def _write(
    to: Path,
    items: Mapping[str, ItemText],
    histories: Mapping[str, list[Event]],
    users: list[dict[str, str]],
) -> None:
    draft = to.with_name(to.name + ".new")
    make_private(draft)
    rows = list(_rows(histories))
    columns = [name for name in _INTERACTIONS.names if _is_needed(name, rows)]
    _write_table(draft / "interactions.parquet", rows, _INTERACTIONS, columns)
    texts = [
        {
            "item_id": item_id,
            "title": text.title,
            "brand": text.brand,
            "description": text.description,
            "categories": " > ".join(text.categories) or None,
        }
        for item_id, text in items.items()
    ]
    _write_table(draft / "items.parquet", texts, _ITEMS, _ITEMS.names)
    if users:
        names = list(dict.fromkeys(name for row in users for name in row))
        schema = pa.schema({name: pa.string() for name in names})
        _write_table(draft / USERS, users, schema, names)
    draft.rename(to)
    sync_folder(to.parent)


_INTERACTIONS = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "pos": pa.int64(),
        "timestamp": pa.int64(),
        "event_id": pa.string(),
        "type": pa.string(),
        "value": pa.float64(),
    }
)
_ITEM_COLUMNS = ("item_id", "title", "brand", "categories", "description")
_ITEMS = pa.schema({name: pa.string() for name in _ITEM_COLUMNS})


def _rows(histories: Mapping[str, list[Event]]) -> Iterator[dict[str, Any]]:
    for user_id, events in sorted(histories.items()):
        for pos, event in enumerate(events):
            yield {
                **event._asdict(),
                "user_id": user_id,
                "pos": pos,
                "type": event.type or None,
            }


def _is_needed(name: str, rows: list[dict[str, Any]]) -> bool:
    return name not in ("type", "value") or any(row[name] is not None for row in rows)


def _write_table(
    file: Path, rows: list[dict[str, Any]], schema: "pa.Schema", columns: list[str]
) -> None:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=schema).select(columns)
    pq.write_table(table, sink, compression="zstd")
    write_durably(file, sink.getvalue())
