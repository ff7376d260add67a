"""Command line of the intake, the folder it writes, and the digest of data."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.catalog.dataset import Dataset, load_dataset
from models.errors import InvalidDataset
from models.intake.cli import main
from models.intake.data_folder import data_digest
from models.intake.intake import read_data
from models.intake.reading_options import ReadingOptions

CSV = "user,product,ts,stars\nu1,b,1714564860000,5\nu1,a,1714564800000,4\nu1,a,1714564800000,4\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "shop.csv"
    made.write_text(CSV)
    return made


def test_a_folder_is_written_that_reads_as_the_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert main([str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "columns: user_id = user, item_id = product, timestamp = ts" in said
    assert "times: milliseconds" in said
    assert "1 ignored: stars" in said
    assert "1 events that stand twice; one is kept" in said
    assert sorted(each.name for each in out.iterdir()) == [
        "interactions.parquet",
        "items.parquet",
        "summary.json",
    ]
    assert load_dataset(out) == load_dataset(file)
    assert pq.read_schema(out / "interactions.parquet").field("user_id").type == pa.string()
    assert json.loads((out / "summary.json").read_text())["events"] == 2


def test_a_machine_reads_the_same_summary(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert main([str(file), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "summary.json").read_text())


def test_a_dry_run_writes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--dry-run", "--out", str(tmp_path / "mine")]) == 0
    assert "nothing, --dry-run" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "expected --out DIR, or --dry-run"),
        (("--out", "."), "exists already, expected a folder to be made"),
        (("--dry-run", "--strict"), "--strict refuses"),
        (("--dry-run", "--encoding", "klingon"), "--encoding klingon: no such encoding"),
        (("--dry-run", "--map", "user_id=who"), "--map user_id=who: no such column"),
    ],
)
def test_a_refusal_is_one_line(
    words: tuple[str, ...], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), *words]) == 78
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_wrong_row_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    file.write_text(f"{CSV}u2,,1714564800000,1\n")
    assert main([str(file), "--out", str(tmp_path / "mine")]) == 78
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_nothing_behind(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plain").write_text("")
    assert main([str(file), "--out", str(tmp_path / "plain" / "mine")]) == 74
    assert "plain" in capsys.readouterr().err


def test_a_mapping_needs_a_field(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(file), "--map", "colour=x"])
    assert "expected FIELD=COLUMN with a field of user_id" in capsys.readouterr().err


def test_the_digest_of_the_bundled_data_is_that_of_its_release() -> None:
    manifest = json.loads(Path("releases/beauty/manifest.json").read_text())
    assert data_digest(Path("data/beauty")) == manifest["recipe"]["data_sha256"]


def test_the_digest_of_a_foreign_file_follows_its_content(file: Path, tmp_path: Path) -> None:
    first = data_digest(file)
    copied = tmp_path / "other.csv"
    shutil.copy(file, copied)
    assert data_digest(copied) == first
    file.write_text(CSV.replace("u1", "u2"))
    assert data_digest(file) != first


# Ids as people have them: no blank at the ends, no control characters, not empty.
IDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=6)
TIMES = st.integers(100_000_000, 4_000_000_000)
ROWS = st.lists(st.tuples(IDS, IDS, TIMES), min_size=1, max_size=12, unique=True)


def write(folder: Path, form: str, rows: list[tuple[str, str, int]], *, unit: int) -> Path:
    columns = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "timestamp": [row[2] * unit for row in rows],
    }
    file = folder / f"x.{form}"
    if form == "parquet":
        pq.write_table(pa.table(columns), file)
    elif form == "jsonl":
        lines = [
            json.dumps(dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]
        file.write_text("\n".join(lines))
    else:
        separator = {"csv": ",", "tsv": "\t"}[form]
        cells = [["user_id", "item_id", "timestamp"], *zip(*columns.values(), strict=True)]
        quoted = [[f'"{str(cell).replace(chr(34), chr(34) * 2)}"' for cell in row] for row in cells]
        file.write_text("".join(separator.join(row) + "\n" for row in quoted))
    return file


def plainly(rows: list[tuple[str, str, int]]) -> dict[str, list[tuple[str, int]]]:
    histories: dict[str, list[tuple[str, int]]] = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        histories.setdefault(user, []).append((item, time))
    return histories


def shown(dataset: Dataset) -> dict[str, list[tuple[str, int]]]:
    return {
        user: [(event.item_id, event.timestamp) for event in history]
        for user, history in dataset.histories.items()
    }


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS, unit=st.sampled_from([1, 1000, 1_000_000, 1_000_000_000]))
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_any_ids_and_times_come_back_from_any_form(
    form: str, rows: list[tuple[str, str, int]], unit: int, tmp_path: Path
) -> None:
    dataset = load_dataset(write(tmp_path, form, rows, unit=unit))
    assert shown(dataset) == plainly(rows)
    assert dataset.items.keys() == {item for _, item, _ in rows}


CELLS = st.one_of(
    st.sampled_from(
        [
            *("user_id", "item_id", "timestamp", "pos", "title", "categories", "value", "type"),
            *("1714564800", "1714564800000", "2024-05-01", "1.5", "-1", "nan", "null", ""),
            *('"', 'a"b', '"a""b"', "[]", '{"user":1,"item":2}', "\r", "\x1f", "::", "|", "\u2028"),
        ]
    ),
    st.text(max_size=4),
)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=6)
TABLES = st.tuples(st.sampled_from([",", ";", "\t", "|", "::"]), LINES).map(
    lambda found: "\n".join(found[0].join(row) for row in found[1]).encode("utf-8", "replace")
)
HEADS = [b"user_id,item_id,timestamp\n", b"user_id\titem_id\tpos\n", b"", b"[", b'{"user":"u"}\n']


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(head=st.sampled_from(HEADS), body=TABLES | st.binary(max_size=40), skips_wrong=st.booleans())
def test_any_bytes_are_read_or_refused_by_name(
    head: bytes, body: bytes, skips_wrong: bool, tmp_path: Path
) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(head + body)
    try:
        summary = read_data([file], ReadingOptions(skips_wrong=skips_wrong)).summary
        said = summary.render()
    except InvalidDataset as exc:
        said = str(exc)
    assert "x.csv" in said
