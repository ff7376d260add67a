"""bench/quality/sid_quality.py on sets small enough to count by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.quality.sid_quality import SidSet, describe, published_sets
from models.errors import InvalidDataset
from tests import ROOT

BEAUTY = ROOT / "data" / "beauty"
CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
SIDS = SidSet("hand", ("i0", "i1", "i2", "i3", "i4"), CODES)
CATEGORIES = {"i0": ("Nails",), "i1": ("Nails",), "i2": ("Hair",), "i3": ("Hair",), "i4": ()}


def test_fan_out_and_unique_share_are_counted_per_prefix_and_per_item() -> None:
    row = describe(SIDS, CATEGORIES)
    assert (row["groups_1"], row["groups_2"], row["groups_3"]) == (2, 3, 4)
    assert row["fan_out"] == pytest.approx(5 / 3)
    assert row["fan_out_weighted"] == pytest.approx((3 * 3 + 1 + 1) / 5)
    assert row["unique"] == pytest.approx(3 / 5)


def test_purity_is_the_share_of_the_majority_category_among_categorised_items() -> None:
    row = describe(SIDS, CATEGORIES)
    assert row["purity_1"] == pytest.approx(2 / 4)
    assert row["purity_2"] == pytest.approx(3 / 4)
    assert row["purity_3"] == pytest.approx(3 / 4)


def test_a_data_set_without_categories_has_no_purity() -> None:
    assert not [column for column in describe(SIDS, {}) if column.startswith("purity")]


def test_published_sets_are_read_with_as_many_levels_as_they_have(tmp_path: Path) -> None:
    table = pa.table(
        {"item_id": ["x", "y"], "a": [1, 2], "b": [3, 4], "c": [5, 6], "dedup": [0, 0]}
    )
    pq.write_table(table, tmp_path / "sids_somebody.parquet")
    (found,) = published_sets(tmp_path)
    assert (found.name, found.item_ids) == ("somebody", ("x", "y"))
    assert found.codes_NL.tolist() == [[1, 3, 5], [2, 4, 6]]


def test_a_file_that_is_no_sid_set_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["x"]}), tmp_path / "sids_broken.parquet")
    with pytest.raises(InvalidDataset, match=r"sids_broken\.parquet"):
        published_sets(tmp_path)


def test_bundled_published_sets_cover_the_bundled_items() -> None:
    """The data README counts 12,088 distinct SIDs in LETTER's set."""
    rows = {row["name"]: row for row in (describe(s, {}) for s in published_sets(BEAUTY))}
    assert {row["items"] for row in rows.values()} == {12101}
    assert rows["letter_4x256"]["groups_4"] == 12088
