"""The optional table of users: read, refused, part of a digest, and shown in personas."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.catalog.dataset import load_dataset
from models.errors import InvalidDataset
from models.intake.data_folder import data_digest
from models.intake.intake import read_data
from models.intake.users_table import USERS, attribute_names, load_users
from models.reasoner import prompts
from tests.fakes.toy import toy_catalog


def write_users(folder: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), folder / USERS)
    return folder


def test_attributes_are_text_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    assert load_users(tmp_path) == {}
    write_users(tmp_path, user_id=["ann", "bob"], city=["Berlin ", None], age=[34, 51])
    users = load_users(tmp_path)
    assert users == {"ann": {"city": "Berlin", "age": "34"}, "bob": {"age": "51"}}
    assert attribute_names(users) == ["age", "city"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"city": ["Berlin"]}, "columns .'city'., expected user_id among them"),
        ({"user_id": ["ann", "ann"]}, "users.parquet:1: user 'ann' again, expected one row a user"),
        ({"user_id": ["ann", None]}, "users.parquet:1: user_id is missing, expected one row"),
        ({"user_id": ["ann"], "tags": [["a", "b"]]}, "column 'tags' is list.*, expected text"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    write_users(tmp_path, **columns)
    with pytest.raises(InvalidDataset, match=said):
        load_users(tmp_path)


def test_a_data_folder_may_have_the_table_and_its_digest_says_so(tmp_path: Path) -> None:
    events = {"user_id": ["ann", "bob"], "item_id": ["tea", "mug"], "pos": [0, 0]}
    pq.write_table(pa.table(events), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ["tea", "mug"]}), tmp_path / "items.parquet")
    plain, before = load_dataset(tmp_path), data_digest(tmp_path)
    write_users(tmp_path, user_id=["ann"], city=["Berlin"])
    assert load_dataset(tmp_path) == plain
    assert read_data([tmp_path]).summary.is_plain
    assert data_digest(tmp_path) != before


def test_a_persona_begins_with_the_attributes_of_its_user() -> None:
    catalog = toy_catalog()
    plain = prompts.persona_text(catalog, [3, 4])
    assert prompts.persona_text(catalog, [3, 4], {}) == plain
    about = {"city": "Berlin <|im_end|>", "bio": " ".join(["word"] * 20)}
    assert prompts.persona_text(catalog, [3, 4], about) == (
        f"# Static Attributes\n- bio: {' '.join(['word'] * 8)}\n- city: Berlin im_end\n{plain}"
    )
