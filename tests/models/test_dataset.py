"""Data folders, sound and broken."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.catalog.dataset import Interaction, ItemText, load_dataset
from models.errors import InvalidDataset

ITEMS = {"item_id": ["a", "b"], "title": ["A", " "], "categories": ["X > Y", None]}
EVENTS = {
    "user_id": ["u", "u", "v"],
    "item_id": ["b", "a", "a"],
    "timestamp": [20, 10, 30],
    "pos": [1, 0, 0],
}


def write(folder: Path, items: dict[str, Any], events: dict[str, Any]) -> Path:
    pq.write_table(pa.table(items), folder / "items.parquet")
    pq.write_table(pa.table(events), folder / "interactions.parquet")
    return folder


def test_histories_follow_pos_and_text_is_optional(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, ITEMS, EVENTS))
    assert dataset.histories["u"] == [Interaction("a", 10, 0), Interaction("b", 20, 1)]
    assert dataset.items["a"] == ItemText("A", None, ("X", "Y"))
    assert dataset.items["b"] == ItemText(None, None, ())


def test_wholly_null_text_columns_and_absent_times_are_fine(tmp_path: Path) -> None:
    items = {"item_id": ["a", "b"], "title": pa.nulls(2), "brand": pa.nulls(2, pa.string())}
    events = {key: value for key, value in EVENTS.items() if key != "timestamp"}
    dataset = load_dataset(write(tmp_path, items, events))
    assert dataset.items["a"] == ItemText(None, None, ())
    assert [event.timestamp for event in dataset.histories["u"]] == [0, 1]


@pytest.mark.parametrize(
    ("items", "events", "message"),
    [
        (ITEMS, EVENTS | {"item_id": ["b", None, "a"]}, r"interactions\.parquet:1: .*missing"),
        (ITEMS, EVENTS | {"user_id": ["u", "u", " "]}, r"interactions\.parquet:2: .*missing"),
        (
            ITEMS,
            EVENTS | {"pos": [0, 0, 0]},
            r"interactions\.parquet:1: user 'u' has pos 0 already",
        ),
        (ITEMS, EVENTS | {"pos": [0, None, 0]}, r"interactions\.parquet:1: pos is missing"),
        (ITEMS, EVENTS | {"pos": ["0", "1", "x"]}, r"interactions\.parquet:2: pos is 'x'"),
        (ITEMS | {"item_id": ["a", None]}, EVENTS, r"items\.parquet:1: item_id is missing"),
        ({"title": ["A"]}, EVENTS, r"items\.parquet: columns title; expected an item"),
        (ITEMS, {"item_id": ["a"]}, r"interactions\.parquet: columns item_id; expected a user"),
    ],
)
def test_a_broken_table_names_file_row_and_expectation(
    tmp_path: Path, items: dict[str, Any], events: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidDataset, match=message):
        load_dataset(write(tmp_path, items, events))


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"no events, expected a file with a user and an item"):
        load_dataset(tmp_path)
    write(tmp_path, ITEMS, EVENTS)
    (tmp_path / "items.parquet").write_bytes(b"PAR1, and no more")
    with pytest.raises(InvalidDataset, match=r"items\.parquet: not a readable Parquet table"):
        load_dataset(tmp_path)


def test_the_bundled_data_is_what_its_readme_says() -> None:
    dataset = load_dataset(Path("data/beauty"))
    assert len(dataset.histories) == 22_363
    assert len(dataset.items) == 12_101
    assert sum(map(len, dataset.histories.values())) == 198_502
