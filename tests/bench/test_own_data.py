"""A release is measured on the data it was trained on, unless the user says otherwise."""

import argparse
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from bench.__main__ import main
from bench.common.own_data import load_own_data
from models.catalog.data_content import content_digest
from models.catalog.dataset import load_dataset
from models.errors import InvalidSettings
from models.release.release import Release


@pytest.fixture
def data(tmp_path: Path) -> Path:
    events = [(f"u{at % 7}", f"i{at % 5}", at // 7, 1000 + at) for at in range(60)]
    names = ("user_id", "item_id", "pos", "timestamp")
    return write(tmp_path / "data", [dict(zip(names, event, strict=True)) for event in events])


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    items = [{"item_id": item} for item in sorted({str(row["item_id"]) for row in rows})]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    return folder


def trained_on(release: Release, folder: Path, recipe: dict[str, str]) -> Release:
    """Return a copy of a release whose manifest tells of its data."""
    directory = Path(shutil.copytree(release.directory, folder / "release"))
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["recipe"] = {"seed": 0, **recipe}
    file.write_text(json.dumps(manifest))
    return Release.load(directory)


def options(data: Path, *, other_data: bool = False) -> argparse.Namespace:
    return argparse.Namespace(data=data, other_data=other_data)


def test_the_digest_is_of_the_content_not_of_the_files(data: Path, tmp_path: Path) -> None:
    expected = content_digest(load_dataset(data))
    rows = pq.read_table(data / "interactions.parquet").to_pylist()
    backwards = write(tmp_path / "backwards", rows[::-1])
    table = tmp_path / "events.csv"
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), table)
    assert content_digest(load_dataset(backwards)) == expected
    assert content_digest(load_dataset(table)) == expected
    changes: list[dict[str, object]] = [{"timestamp": 999}, {"item_id": "i4"}, {"user_id": "new"}]
    for at, change in enumerate(changes):
        other = write(tmp_path / f"other-{at}", [rows[0] | change, *rows[1:]])
        assert content_digest(load_dataset(other)) != expected


def test_other_data_are_refused(
    release: Release, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bench quality --release mine` ranked Beauty's users on the items of mine."""
    content = content_digest(load_dataset(data))
    own = trained_on(release, tmp_path, {"data_content": content})
    assert load_own_data(options(data), own).histories.keys() == {f"u{at}" for at in range(7)}
    rows = pq.read_table(data / "interactions.parquet").to_pylist()
    other = write(tmp_path / "other", rows[1:])
    with pytest.raises(InvalidSettings, match="was trained on other data"):
        load_own_data(options(other), own)
    assert len(load_own_data(options(other, other_data=True), own).histories) == 7
    words = ["--release", str(own.directory), "--data", str(other)]
    assert main(["quality", "--no-thoughts", *words]) == 78
    assert "--other-data measures it all the same" in capsys.readouterr().err


def test_a_release_without_a_digest_is_measured_with_a_line(
    release: Release, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = trained_on(release, tmp_path, {"data_sha256": "toy"})
    load_own_data(options(data), old)
    (line,) = [each for each in caplog.messages if "digest" in each]
    assert line.startswith(f"{old.directory} has no digest of its data")
