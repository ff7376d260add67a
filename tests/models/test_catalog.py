"""Items, their order, their file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.catalog.catalog import build_catalog, load_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.errors import InvalidCatalog
from tests.fakes.toy import toy_catalog

SPACE = SidSpace((4, 4, 4))
TEXT = ItemText("A title", None, ())


def test_items_of_one_sid_stand_together_most_popular_first() -> None:
    sids = {"b": (1, 1, 1), "a": (1, 1, 1), "c": (1, 1, 1), "z": (0, 0, 0)}
    catalog = build_catalog(SPACE, sids, dict.fromkeys(sids, TEXT), {"c": 5, "a": 2, "b": 2})
    assert catalog.item_ids == ("z", "c", "a", "b")
    assert catalog.first_row.tolist() == [0, 1, 4]
    assert catalog.row("c") == 1
    assert catalog.row("unknown") is None
    assert catalog.rows(["c", "unknown", "z", "c"]) == (1, 0, 1)


def test_a_saved_catalog_loads_equal(tmp_path: Path) -> None:
    catalog = toy_catalog()
    catalog.save(tmp_path / "catalog.parquet")
    loaded = load_catalog(tmp_path / "catalog.parquet", catalog.space)
    assert loaded.item_ids == catalog.item_ids
    assert (loaded.sids == catalog.sids).all()
    assert (loaded.popularity == catalog.popularity).all()
    assert (loaded.titles, loaded.brands) == (catalog.titles, catalog.brands)
    assert loaded.categories == catalog.categories


def test_a_catalog_with_wholly_null_text_loads(tmp_path: Path) -> None:
    sids = {"a": (1, 1, 1), "b": (2, 2, 2)}
    text = ItemText(None, None, ())
    build_catalog(SPACE, sids, dict.fromkeys(sids, text), {}).save(tmp_path / "catalog.parquet")
    assert load_catalog(tmp_path / "catalog.parquet", SPACE).titles == (None, None)


def test_an_empty_catalog_is_a_catalog(tmp_path: Path) -> None:
    catalog = build_catalog(SPACE, {}, {}, {})
    assert catalog.first_row.tolist() == [0]
    catalog.save(tmp_path / "catalog.parquet")
    assert len(load_catalog(tmp_path / "catalog.parquet", SPACE)) == 0


def test_a_bad_code_names_item_code_and_expectation() -> None:
    with pytest.raises(InvalidCatalog, match=r"'a': code 9 at level 1, expected 0\.\.3"):
        build_catalog(SPACE, {"a": (0, 9, 0)}, {"a": TEXT}, {})


def test_a_file_out_of_order_names_the_row(tmp_path: Path) -> None:
    catalog = toy_catalog(num_items=5)
    reversed_rows = replace(catalog, sids=catalog.sids[::-1].copy())
    reversed_rows.save(tmp_path / "catalog.parquet")
    with pytest.raises(InvalidCatalog, match=r"catalog\.parquet:1: SID below the row before"):
        load_catalog(tmp_path / "catalog.parquet", catalog.space)


def test_another_parquet_table_is_no_catalog(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": np.array(["a"])}), tmp_path / "catalog.parquet")
    with pytest.raises(InvalidCatalog, match="not a catalog"):
        load_catalog(tmp_path / "catalog.parquet", SPACE)
