"""Export of base data and archive: each event once, erased users gone, fit to be trained on."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from models.catalog.dataset import load_dataset
from models.catalog.fed_items import FedItem
from models.errors import InvalidInput
from models.intake.users_table import USERS, load_users
from models.log.tombstones import write_tombstone
from models.release.release import Release
from models.store.events import Event
from offline.disk.archive import drain
from offline.plan.exporter import ExportCounts, export_dataset, read_feed
from offline.plan.importer import import_dataset
from tests.fakes.memory_store import MemoryStore
from tests.fakes.offline_command import OfflineCommand

LATE = 2_000_000_000  # unix seconds, after every event of the data folder
FED = [
    FedItem(
        item_id="tea",
        title="Tea",
        brand="Leaf",
        categories=("Food", "Drinks"),
        description="Green and loose",
    ),
    FedItem(item_id="mug", title="Mug"),
    FedItem(item_id="mug", withdrawn=True),
]


@pytest.fixture
async def store(data_dir: Path, progress: Progress, tmp_path: Path) -> MemoryStore:
    """A store with the data folder, newer events, and an archive of all at tmp_path."""
    store = MemoryStore()
    await import_dataset(data_dir, store, progress)
    bought = Event("tea", LATE, "sale", "purchase", 2.5)
    await store.append_each({"user-03": [bought, Event("item-1", LATE - 5, "click")]})
    await store.append_each({"new": [Event("mug", LATE, "m"), Event("item-2", LATE + 1, "n")]})
    await store.append_each({"late": [Event("nothing", LATE, "x")]})
    await drain(store, tmp_path)
    await drain(store, tmp_path)  # overlaps the first
    return store


async def test_an_export_has_each_event_once_and_training_can_read_it(
    data_dir: Path, store: MemoryStore, tmp_path: Path
) -> None:
    base, to = load_dataset(data_dir), tmp_path / "new"
    num_base = sum(map(len, base.histories.values()))
    counts = export_dataset(tmp_path, to, base=data_dir, catalog=None, fed=FED)
    dataset = load_dataset(to)
    assert counts == ExportCounts(
        users=len(base.histories) + 1,
        events=num_base + 3,
        new_events=5,
        items=len(base.items) + 1,
        left_out=2,
    )
    assert sum(map(len, dataset.histories.values())) == counts.events
    for user_id, history in base.histories.items():
        kept = [each.item_id for each in dataset.histories[user_id]]
        assert kept[: len(history)] == [each.item_id for each in history]
    *_, click, sale = dataset.histories["user-03"]
    assert (click.item_id, click.event_id, click.type, click.value) == ("item-1", "click", "", None)
    assert sale[3:] == ("sale", "purchase", 2.5)
    assert dataset.items["tea"] == ("Tea", "Leaf", ("Food", "Drinks"), "Green and loose")
    assert "mug" not in dataset.items


async def test_an_import_of_the_export_adds_nothing(
    data_dir: Path, store: MemoryStore, tmp_path: Path, progress: Progress
) -> None:
    export_dataset(tmp_path, tmp_path / "new", base=data_dir, catalog=None, fed=FED)
    assert (await import_dataset(tmp_path / "new", store, progress)).new_events == 0
    export_dataset(tmp_path, tmp_path / "next", base=tmp_path / "new", catalog=None, fed=FED)
    assert load_dataset(tmp_path / "next") == load_dataset(tmp_path / "new")


async def test_an_erased_user_and_late_events_are_not_exported(
    data_dir: Path, store: MemoryStore, tmp_path: Path
) -> None:
    write_tombstone(tmp_path, "user-03", now_ms=(LATE + 9) * 1000)
    write_tombstone(tmp_path, "user-04", now_ms=await store.clock_ms())
    export_dataset(tmp_path, tmp_path / "new", base=data_dir, catalog=None, fed=FED, until_s=LATE)
    histories = load_dataset(tmp_path / "new").histories
    assert not {"user-03", "user-04", "new"} & histories.keys()
    assert "user-05" in histories
    table = pq.read_table(tmp_path / "new" / "interactions.parquet")
    assert not {"type", "value"} & set(table.column_names)


async def test_a_catalog_stands_in_for_a_base_folder(
    store: MemoryStore, release: Release, tmp_path: Path
) -> None:
    await store.offer_items(FED)
    fed = await read_feed(store)
    assert fed == FED
    to = tmp_path / "new"
    with pytest.raises(InvalidInput, match="no items to export"):
        export_dataset(tmp_path, to, base=None, catalog=None, fed=[])
    assert not to.exists()
    export_dataset(tmp_path, to, base=None, catalog=release.catalog, fed=fed)
    assert load_dataset(to).items.keys() == {*release.catalog.item_ids, "tea"}
    with pytest.raises(InvalidInput, match="exists already"):
        export_dataset(tmp_path, to, base=None, catalog=release.catalog, fed=fed)


def test_the_command_exports_what_was_archived(
    state: Path, data_dir: Path, tmp_path: Path, call: OfflineCommand
) -> None:
    call("import", "--data", data_dir)
    call("archive")
    code, out, _ = call("export", "--data", data_dir, "--out", tmp_path / "new")
    said = json.loads(out)
    assert (code, said["new_events"], said["left_out"]) == (0, 0, 0)
    assert (
        load_dataset(tmp_path / "new").histories.keys() == load_dataset(data_dir).histories.keys()
    )
    code, _, err = call("export", "--out", tmp_path / "other", "--until", "yesterday")
    assert (code, "'yesterday', expected YYYY-MM-DD" in err) == (78, True)


def test_attributes_of_users_are_kept_but_for_erased_ones(
    data_dir: Path, tmp_path: Path, store: MemoryStore
) -> None:
    base = Path(shutil.copytree(data_dir, tmp_path / "base"))
    ids = ["user-01", "user-02", "nobody"]
    pq.write_table(pa.table({"user_id": ids, "city": ["Rome", "Oslo", "Bonn"]}), base / USERS)
    write_tombstone(tmp_path, "user-02", now_ms=1)  # and came back
    export_dataset(tmp_path, tmp_path / "new", base=base, catalog=None, fed=[])
    assert "user-02" in load_dataset(tmp_path / "new").histories
    assert load_users(tmp_path / "new") == {"user-01": {"city": "Rome"}}
