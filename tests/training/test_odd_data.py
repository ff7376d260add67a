"""Data sets from which no release can come: one line that names the folder, and exit 78."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.cli import main

ITEMS = [f"i{at}" for at in range(40)]


def write_data(folder: Path, histories: list[list[str]], items: list[str]) -> Path:
    """A data folder of one user a history, without any text."""
    events = [
        (f"u{user}", item, pos)
        for user, history in enumerate(histories)
        for pos, item in enumerate(history)
    ]
    users, chosen, places = (
        (list(column) for column in zip(*events, strict=True)) if events else ([], [], [])
    )
    columns = {
        "user_id": pa.array(users, pa.string()),
        "item_id": pa.array(chosen, pa.string()),
        "pos": pa.array(places, pa.int64()),
    }
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    pq.write_table(pa.table({"item_id": items}), folder / "items.parquet")
    return folder


@pytest.mark.parametrize(
    ("histories", "items", "message"),
    [
        ([], ITEMS, "no rows in {data}/interactions.parquet"),
        ([ITEMS[:2]] * 300, ITEMS, "{data}: 0 of 300 users have three items or more"),
        ([ITEMS[:5]] * 5, ITEMS, "{data}: 5 of 5 users have three items or more"),
        ([ITEMS[:5]] * 300, ITEMS[:12], "{data}: 12 items, expected at least 20 for codebooks of"),
    ],
    ids=["a header only", "two events each", "five users", "twelve items"],
)
def test_too_little_data_are_refused_before_any_training(
    histories: list[list[str]],
    items: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_data(tmp_path / "data", histories, items)
    assert main(["all", "--data", str(data), "--out", str(tmp_path / "out")]) == 78
    said = capsys.readouterr().err
    assert said.startswith(f"training: {message.format(data=data)}")
    assert len(said.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
