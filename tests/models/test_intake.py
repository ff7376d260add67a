"""Data as people have them: every form and every defect as a small real file."""

import gzip
import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.catalog.dataset import Dataset, ItemText, load_dataset
from models.errors import InvalidDataset
from models.intake.file_form import find_bad_byte
from models.intake.intake import Intake, read_data
from models.intake.reading_options import ReadingOptions

DAY = 86_400
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z
HEADER = "user_id,item_id,timestamp\n"


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / next(iter(files)) if len(files) == 1 else folder


def events(intake: Intake) -> list[tuple[Any, ...]]:
    """Return user, item and time of each event by user and position."""
    names = ["user_id", "item_id", "timestamp"]
    table = intake.interactions
    names = [name for name in names if name in table.column_names]
    rows = table.select([*names, "pos"]).to_pylist()
    rows.sort(key=lambda row: (row["user_id"], row["pos"]))
    return [tuple(row[name] for name in names) for row in rows]


def notes(intake: Intake) -> list[str]:
    return [note.render() for note in (*intake.summary.dropped, *intake.summary.guessed)]


def items(intake: Intake) -> dict[str, dict[str, str | None]]:
    return {row.pop("item_id"): row for row in intake.items.to_pylist()}


def read(folder: Path, files: dict[str, str | bytes], **options: Any) -> Intake:
    return read_data([put(folder, files)], ReadingOptions(**options))


EXPECTED = [("u1", "a", NOON), ("u1", "b", NOON + 60), ("u2", "a", NOON - DAY)]
# Name of the file and its content; every one holds the events above.
LINES = [("u1", "b", NOON + 60), ("u1", "a", NOON), ("u2", "a", NOON - DAY)]


def table(form: str, *, header: str = "", times: Sequence[object] | None = None) -> str:
    """Write the events of LINES, each in one form: `{u}`, `{i}` and `{t}` are its values."""
    shown = times or [time for _, _, time in LINES]
    rows = [
        form.format(u=user, i=item, t=time)
        for (user, item, _), time in zip(LINES, shown, strict=True)
    ]
    return "\n".join([*([header] if header else []), *rows, ""])


def csv(times: Sequence[object] | None = None) -> str:
    return table("{u},{i},{t}", header=HEADER.strip(), times=times)


def objects(user: str, item: str, time: str, scale: int = 1) -> list[dict[str, Any]]:
    return [{user: u, item: i, time: t * scale} for u, i, t in LINES]


ZONES = ["2024-05-01T14:01:00+02:00", "2024-05-01T12:00:00.000000Z", "2024-04-30 12:00:00 UTC"]
NO_ZONES = ["2024-05-01T12:01:00", "2024-05-01 12:00", "2024-04-30 12:00:00.0"]
# Name of the file and its content; every one holds the events above.
SAME_EVENTS: dict[str, tuple[str, str | bytes]] = {
    "csv without pos": ("x.csv", csv()),
    "semicolons": ("x.csv", table("{u};{i};{t}", header="User;Item;Time")),
    "tabs": ("x.tsv", table("{u}\t{i}\t{t}", header="uid\tproduct_id\tts")),
    "quotes": ("x.csv", table('"{u}","{i}",{t}\r', header='"user_id","item_id","timestamp"\r')),
    "bom": ("x.csv", f"\ufeff{csv()}"),
    "gz": ("x.csv.gz", csv()),
    "utf-16": ("x.csv", csv().encode("utf-16")),
    "floats": ("x.csv", csv([f"{time}.0" for _, _, time in LINES])),
    "milliseconds": ("x.csv", csv([time * 10**3 for _, _, time in LINES])),
    "microseconds": ("x.csv", csv([time * 10**6 for _, _, time in LINES])),
    "nanoseconds": ("x.csv", csv([time * 10**9 for _, _, time in LINES])),
    "iso with zone": ("x.csv", csv(ZONES)),
    "iso without zone": ("x.csv", csv(NO_ZONES)),
    "u.data": ("u.data", table("{u}\t{i}\t3\t{t}")),
    "ratings.dat": ("ratings.dat", table("{u}::{i}::3::{t}")),
    "amazon ratings": ("ratings_Beauty.csv", table("{u},{i},3.0,{t}")),
    "inter": (
        "x.inter",
        table("{u}\t{i}\t{t}", header="user_id:token\titem_id:token\ttimestamp:float"),
    ),
    "jsonl": (
        "events.jsonl",
        table('{{"user":"{u}","item":"{i}","ts":"{t}","event":"view"}}\n', times=ZONES),
    ),
    "jsonl.gz": (
        "reviews.jsonl.gz",
        "\n".join(map(json.dumps, objects("reviewerID", "asin", "unixReviewTime"))),
    ),
    "json array": ("x.json", json.dumps(objects("user_id", "item_id", "timestamp", scale=1000))),
}


@pytest.mark.parametrize("name", SAME_EVENTS)
def test_a_form_gives_events_in_order_of_time_and_their_items(name: str, tmp_path: Path) -> None:
    file, content = SAME_EVENTS[name]
    intake = read(tmp_path, {file: content})
    assert events(intake) == EXPECTED
    assert sorted(items(intake)) == ["a", "b"]
    assert intake.summary.dropped == ()
    dataset = load_dataset(tmp_path / file)
    assert [each.item_id for each in dataset.histories["u1"]] == ["a", "b"]


def test_the_unit_of_times_is_said(tmp_path: Path) -> None:
    file, content = SAME_EVENTS["milliseconds"]
    assert read(tmp_path, {file: content}).summary.read[0].times == "milliseconds"


def test_times_without_a_zone_are_said_once(tmp_path: Path) -> None:
    file, content = SAME_EVENTS["iso without zone"]
    intake = read(tmp_path, {file: content})
    assert notes(intake) == ["3 times without a zone are read as UTC"]


def test_a_rating_is_ignored_and_counted(tmp_path: Path) -> None:
    (read_files,) = read(tmp_path, dict([SAME_EVENTS["u.data"]])).summary.read
    assert read_files.ignored == ("rating",)
    assert (read_files.form, read_files.rows) == ("MovieLens u.data", 3)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("20240501", "20240430"), (1_714_521_600, 1_714_435_200)),
        (("2024-05-01", "2024-04-30"), (1_714_521_600, 1_714_435_200)),
        (("20240501120000", "20240430120000"), (NOON, NOON - DAY)),
        (("0", "1"), (0, 1)),
        (("1714564800.9", "1714478400.1"), (NOON, NOON - DAY)),
    ],
)
def test_a_time_is_read(times: tuple[str, str], expected: tuple[int, int], tmp_path: Path) -> None:
    rows = "".join(f"u{place},a,{time}\n" for place, time in enumerate(times))
    assert [row[2] for row in events(read(tmp_path, {"x.csv": HEADER + rows}))] == list(expected)


def test_a_form_of_times_that_is_named_is_read(tmp_path: Path) -> None:
    content = f"{HEADER}u,a,12/01/2010 08:26\nu,b,\n"
    intake = read(tmp_path, {"x.csv": content}, time_format="%d/%m/%Y %H:%M", skips_wrong=True)
    expected = int(datetime(2010, 1, 12, 8, 26, tzinfo=UTC).timestamp())
    assert events(intake) == [("u", "a", expected)]
    assert notes(intake)[0].startswith("1 wrong rows")


def test_events_of_one_second_keep_the_order_of_their_milliseconds(tmp_path: Path) -> None:
    rows = "".join(f"u,{item},{NOON}{ms}\n" for item, ms in (("c", 700), ("a", 100), ("b", 300)))
    intake = read(tmp_path, {"x.csv": HEADER + rows})
    assert [row[1] for row in events(intake)] == ["a", "b", "c"]


def test_events_of_one_time_stay_in_the_order_of_their_rows(tmp_path: Path) -> None:
    rows = "".join(f"u,{item},{NOON}\n" for item in "dbca")
    assert [row[1] for row in events(read(tmp_path, {"x.csv": HEADER + rows}))] == list("dbca")


def test_recbole_items_have_titles_and_words_as_categories(tmp_path: Path) -> None:
    file, content = SAME_EVENTS["inter"]
    header = "item_id:token\tmovie_title:token_seq\tclass:token_seq"
    item = f'{header}\na\tToy "Story"\tAnimation Comedy\nb\tGoldenEye\t\n'
    intake = read(
        tmp_path, {file: content, "x.item": item, "x.user": "user_id:token\tage:token\n1\t3"}
    )
    assert items(intake) == {
        "a": {"title": 'Toy "Story"', "categories": "Animation > Comedy"},
        "b": {"title": "GoldenEye", "categories": None},
    }
    assert intake.summary.not_read == ("x.user",)


def test_movielens_100k_in_latin_1(tmp_path: Path) -> None:
    flags = [0, 0, 0, 1, 1] + [0] * 14
    row = "|".join(["a", "Misérables, Les (1995)", "01-Jan-1995", "", "http://x", *map(str, flags)])
    second = "|".join(["b", "Get Shorty", "01-Jan-1995", "", "http://y", *["0"] * 19])
    intake = read(
        tmp_path,
        {
            "u.data": SAME_EVENTS["u.data"][1],
            "u.item": f"{row}\n{second}\n".encode("latin-1"),
            "u1.base": SAME_EVENTS["u.data"][1],
            "u.user": "1|24|M|technician|85711\n",
        },
    )
    assert items(intake)["a"] == {
        "title": "Misérables, Les (1995)",
        "categories": "Animation > Children's",
    }
    assert items(intake)["b"]["categories"] is None
    assert intake.summary.events == 3
    assert intake.summary.not_read == ("u.user", "u1.base")


def test_movielens_1m_and_25m(tmp_path: Path) -> None:
    movies = "a::Star Wars: Episode IV::Action|Sci-Fi\nb::Léon::Drama\n".encode("latin-1")
    intake = read(tmp_path, {"ratings.dat": SAME_EVENTS["ratings.dat"][1], "movies.dat": movies})
    assert items(intake)["a"] == {"title": "Star Wars: Episode IV", "categories": "Action > Sci-Fi"}
    other = tmp_path / "25m"
    intake = read(
        other,
        {
            "ratings.csv": f"userId,movieId,rating,timestamp\nu1,a,4.0,{NOON}\n",
            "movies.csv": 'movieId,title,genres\na,"American President, The (1995)",Comedy|Drama\n',
            "tags.csv": f"userId,movieId,tag,timestamp\nu1,a,classic,{NOON}\n",
        },
    )
    assert items(intake)["a"]["title"] == "American President, The (1995)"
    assert (intake.summary.events, intake.summary.not_read) == (1, ("tags.csv",))


def test_gorse_withdraws_hidden_items_with_their_events(tmp_path: Path) -> None:
    intake = read(
        tmp_path,
        {
            "feedback.csv": "feedback_type,user_id,item_id,time_stamp\n"
            "read,u1,a,2024-05-01 12:00:00 +0000 UTC\nstar,u1,b,2024-05-01 12:01:00 +0000 UTC\n",
            "items.csv": "item_id,is_hidden,categories,time_stamp,labels,comment\n"
            'a,false,"[""Book"",""Novel""]",2024-05-01,{},Emma\nb,true,Film|Short,2024-05-01,{},Alien\n',
            "users.csv": "user_id,labels\nu1,{}\n",
        },
    )
    assert events(intake) == [("u1", "a", NOON)]
    assert intake.interactions["type"].to_pylist() == ["read"]
    assert items(intake) == {"a": {"title": "Emma", "categories": "Book > Novel"}}
    assert notes(intake) == ["1 hidden items: 'b'", "1 events of hidden items"]


def test_pos_alone_orders_events(tmp_path: Path) -> None:
    intake = read(tmp_path, {"x.csv": "user_id,item_id,pos\nu,b,1\nu,a,0\n"})
    assert events(intake) == [("u", "a"), ("u", "b")]
    assert not load_dataset(tmp_path / "x.csv").has_times


def test_without_times_and_pos_the_rows_are_the_order_and_it_is_said(tmp_path: Path) -> None:
    intake = read(tmp_path, {"x.csv": "user_id,item_id\nu,b\nu,a\nu,b\n"})
    assert events(intake) == [("u", "b"), ("u", "a"), ("u", "b")]
    assert "the order of events is that of the rows" in notes(intake)[0]
    assert intake.summary.repeats == 1


def parquet(folder: Path, rows: dict[str, Any], texts: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    if texts is not None:
        pq.write_table(pa.table(texts), folder / "items.parquet")
    return folder


ROWS: dict[str, Any] = {
    "user_id": ["u", "u", "v"],
    "item_id": ["b", "a", "a"],
    "timestamp": [20, 10, 30],
    "pos": [1, 0, 0],
}
TEXTS: dict[str, Any] = {"item_id": ["a", "b"], "title": ["A", "B"]}


@pytest.mark.parametrize(
    ("rows", "texts", "ignored"),
    [
        (ROWS | {"rating": [5, 4, 3]}, TEXTS, ("rating",)),
        (ROWS | {"split": ["train", "test", "x"]}, TEXTS, ("split",)),
        (ROWS, TEXTS | {"year": [1999, 2000]}, ("year",)),
    ],
)
def test_another_column_is_ignored_and_counted(
    rows: dict[str, Any], texts: dict[str, Any], ignored: tuple[str, ...], tmp_path: Path
) -> None:
    folder = parquet(tmp_path, rows, texts)
    intake = read_data([folder])
    assert sum((files.ignored for files in intake.summary.read), ()) == ignored
    assert load_dataset(folder) == load_dataset(parquet(tmp_path / "plain", ROWS, TEXTS))


def test_a_missing_time_is_that_of_the_event_before(tmp_path: Path) -> None:
    rows = {
        "user_id": list("uuuvw"),
        "item_id": list("abcab"),
        "timestamp": [None, 20, None, None, 5],
        "pos": [0, 1, 2, 0, 0],
    }
    intake = read_data([parquet(tmp_path, rows, TEXTS | {"item_id": ["a", "b"]})])
    assert [row[2] for row in events(intake)] == [20, 20, 20, 5, 5]
    assert notes(intake)[0].startswith("3 missing times are those of the user's event before")


def test_a_row_that_stands_twice_is_kept_once(tmp_path: Path) -> None:
    twice = {name: [*values, values[0]] for name, values in ROWS.items()}
    intake = read_data([parquet(tmp_path, twice, TEXTS)])
    assert intake.summary.events == 3
    (note,) = notes(intake)
    assert note.startswith("1 events that stand twice; one is kept: ")
    assert note.endswith("interactions.parquet:3")


def test_events_that_differ_in_type_alone_both_stay(tmp_path: Path) -> None:
    rows = "".join(f"u,a,{NOON},{kind}\n" for kind in ("view", "buy", "view"))
    intake = read(tmp_path, {"x.csv": f"user_id,item_id,timestamp,type\n{rows}"})
    assert intake.interactions["type"].to_pylist() == ["view", "buy"]


def test_an_item_that_stands_twice_keeps_its_last_text(tmp_path: Path) -> None:
    texts = {"item_id": ["a", "b", "a", "b"], "title": ["A", "B", "A", "B2"]}
    intake = read_data([parquet(tmp_path, ROWS, texts)])
    assert items(intake) == {"a": {"title": "A"}, "b": {"title": "B2"}}
    assert notes(intake) == [
        "1 rows of items that stand twice; one is kept: 'a'",
        "1 rows of items that stand again with other texts; the last one is kept: 'b'",
    ]


def test_an_item_that_only_events_name_has_no_text(tmp_path: Path) -> None:
    rows = ROWS | {"item_id": ["b", "q", "a"]}
    folder = parquet(tmp_path, rows, TEXTS)
    (note,) = notes(read_data([folder]))
    assert note.startswith("1 items of events have no row among the items")
    assert note.endswith(": 'q'")
    assert load_dataset(folder).items["q"] == ItemText(None, None, ())


def test_texts_beside_the_events_describe_the_items(tmp_path: Path) -> None:
    content = (
        f"user_id,product_id,event_time,brand,category_code\nu,1,{NOON},acme,a.b\nv,1,{NOON},,\n"
    )
    intake = read(tmp_path, {"2019-Oct.csv": content})
    assert items(intake) == {"1": {"brand": "acme", "categories": "a.b"}}


def test_leading_zeros_stay_and_integers_become_text(tmp_path: Path) -> None:
    rows = f"000001,00000168,{NOON}\n1,168,{NOON}\n"
    dataset = load_dataset(put(tmp_path, {"x.csv": HEADER + rows}))
    assert sorted(dataset.histories) == ["000001", "1"]
    assert sorted(dataset.items) == ["00000168", "168"]
    numbers = {"user_id": [7, 2**63 - 1], "item_id": [1.0, 2.0], "timestamp": [1, 2]}
    dataset = load_dataset(parquet(tmp_path / "p", numbers) / "interactions.parquet")
    assert sorted(dataset.histories) == ["7", str(2**63 - 1)]
    assert sorted(dataset.items) == ["1", "2"]


def test_ids_in_json_are_text_or_numbers(tmp_path: Path) -> None:
    lines = [
        {"user_id": 7, "item_id": "2024-05-01", "timestamp": NOON},
        {"user_id": "007", "item_id": 9007199254740993, "timestamp": NOON},
    ]
    intake = read(tmp_path, {"x.jsonl": "\n".join(map(json.dumps, lines))})
    assert events(intake) == [("007", "9007199254740993", NOON), ("7", "2024-05-01", NOON)]


def typed(kind: str) -> "pa.Table":
    users, times = ["u", "u", "v"], [NOON + 60, NOON, NOON]
    if kind == "dictionary":
        users = pa.array(users).dictionary_encode()
    if kind == "large":
        users = pa.array(users, pa.large_string())
    if kind == "view":
        users = pa.array(users, pa.string_view())
    if kind == "binary":
        users = pa.array([user.encode() for user in users], pa.binary())
    if kind == "utc":
        times = pa.array([time * 10**6 for time in times], pa.timestamp("us", "Europe/Berlin"))
    if kind == "naive":
        times = pa.array([time * 10**9 for time in times], pa.timestamp("ns"))
    if kind == "decimal":
        times = pa.array(times, pa.int64()).cast(pa.decimal128(20, 0))
    return pa.table({"user_id": users, "item_id": pa.array([2, 1, 1], pa.uint16()), "time": times})


@pytest.mark.parametrize(
    "kind", ["dictionary", "large", "view", "binary", "utc", "naive", "decimal"]
)
def test_an_arrow_type_is_read(kind: str, tmp_path: Path) -> None:
    pq.write_table(typed(kind), tmp_path / "x.parquet")
    intake = read_data([tmp_path / "x.parquet"])
    assert events(intake) == [("u", "1", NOON), ("u", "2", NOON + 60), ("v", "1", NOON)]
    assert notes(intake) == (["times without a zone are read as UTC"] if kind == "naive" else [])


def test_a_folder_of_parts_and_an_index_of_pandas_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "interactions.parquet"
    folder.mkdir()
    for place in (0, 1):
        columns = {"user_id": ["u"], "item_id": [place + 1], "timestamp": [NOON + place]}
        frame = pa.table(columns | {"__index_level_0__": [place + 5]})  # as pandas writes it
        pq.write_table(frame, folder / f"part-{place}.parquet")
    (folder / "_SUCCESS").touch()
    expected = [("u", "1", NOON), ("u", "2", NOON + 1)]
    assert events(read_data([folder])) == events(read_data([tmp_path])) == expected
    (files,) = read_data([tmp_path]).summary.read
    assert (len(files.files), files.rows, files.ignored) == (2, 2, ("__index_level_0__",))


def test_other_names_are_mapped(tmp_path: Path) -> None:
    content = f"wer,was,wann,title\nu,a,{NOON},x\n"
    columns = {"user_id": "wer", "item_id": "was", "timestamp": "wann", "title": ""}
    intake = read(tmp_path, {"x.csv": content}, columns=columns)
    assert events(intake) == [("u", "a", NOON)]
    assert items(intake) == {"a": {}}
    numbered = {"user_id": "2", "item_id": "1", "pos": "3"}
    intake = read(tmp_path, {"y.csv": "a,u,1\nb,u,0\n"}, columns=numbered)
    assert events(intake) == [("u", "b"), ("u", "a")]


def test_latin_1_is_read_by_its_name(tmp_path: Path) -> None:
    content = f"{HEADER}André,a,{NOON}\n".encode("latin-1")
    assert events(read(tmp_path, {"x.csv": content}, encoding="latin-1")) == [("André", "a", NOON)]


REFUSED: list[tuple[str, str | bytes, str]] = [
    ("x.csv", HEADER, r"^no rows in .*x\.csv$"),
    ("x.csv", HEADER.strip(), r"^no rows in .*x\.csv$"),
    ("x.csv", "", r"^no rows in .*x\.csv$"),
    (
        "x.csv",
        f"{HEADER}u,a,{NOON}\nAndré,a,{NOON}\n".encode("latin-1"),
        r"x\.csv:3: byte 0xe9 at place 45 is not UTF-8, .*--encoding latin-1",
    ),
    ("x.csv", f"{HEADER}u,a,{NOON}\n\nu,b\n", r"x\.csv:4: 2 columns, expected 3"),
    ("x.csv", 'x,user,item,ts\n"1\n2",u,a,1\n3,,b,2\n', r"x\.csv:4: user_id is missing, expected"),
    (
        "x.csv",
        f"{HEADER}u,a,{NOON}\nu,,{NOON}\nu,,{NOON}\n",
        r"x\.csv:3: item_id is missing, expected an id \(1 more such rows\)",
    ),
    (
        "x.csv",
        f"{HEADER}u,a,{NOON}\nu,b,\n",
        r"x\.csv:3: timestamp is missing, expected a time, or a complete column pos",
    ),
    (
        "x.csv",
        f"{HEADER}u,a,{NOON}\nu,b,soon\nu,b,{NOON}\n",
        r"x\.csv:3: time 'soon', expected a number as in most rows",
    ),
    ("x.csv", f"{HEADER}u,a,2024-05-01\nu,b,2024-13-01\n", r":3: time '2024-13-01', .*ISO 8601"),
    ("x.csv", f"{HEADER}u,a,05/01/2024\n", r"x\.csv:2: time '05/01/2024', .*--time-format"),
    (
        "x.csv",
        f"{HEADER}u,a,{NOON}\nu,b,{NOON}000\nu,c,{NOON}\n",
        r"x\.csv:3: time 1714564800000 is in milliseconds, expected seconds as in most rows",
    ),
    ("x.csv", f"{HEADER}u,a,9999999999\n", r":2: time 9999999999 s .* is after the year 2100"),
    ("x.csv", "user_id,item_id,pos\nu,a,0\nu,b,0\n", r":3: user 'u' has pos 0 already in .*:2,"),
    ("x.csv", "user_id,item_id,pos\nu,a,0\nu,b,1.5\n", r"x\.csv:3: pos is 1\.5, expected an int"),
    ("x.csv", "user_id,item_id,pos\nu,a,0\nu,b,\n", r"x\.csv:3: pos is missing, expected an int"),
    ("x.csv", "who,what\nu,a\n", r"columns who, what; expected .*, or --map user_id=COLUMN"),
    ("x.csv", "1,2\n3,4\n", r"x\.csv: columns 1, 2; expected a user and an item"),
    ("x.jsonl", '{"user":"u","item":"a"}\n{"user":"u" "item":"b"}\n', r"x\.jsonl:2: not JSON"),
    ("x.jsonl", '{"user":"u","item":"a"}\n\n{"user":"u"}\n', r"x\.jsonl:3: item_id is missing"),
    ("x.jsonl", '{"user":"u","item":"a"}\n[1]\n', r"x\.jsonl:2: \[1\] is no object"),
    (
        "x.jsonl",
        b'{"user":"u","item":"a","ts":1}\n{"user":"\xe9","item":"a","ts":1}\n',
        r"x\.jsonl:2: byte 0xe9 .* is not UTF-8",
    ),
    ("x.parquet", "PAR1 but no more", r"x\.parquet: not a readable Parquet table"),
    ("x.xlsx", b"PK\x03\x04rest", r"x\.xlsx: a zip archive or an Excel sheet"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_a_wrong_file_names_file_row_and_expectation(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, {name: content})


def test_a_wrong_type_of_parquet_is_named(tmp_path: Path) -> None:
    folder = parquet(tmp_path, ROWS | {"user_id": [1.5, 2.0, 3.0]})
    message = r"interactions\.parquet: column 'user_id' is double, expected ids"
    with pytest.raises(InvalidDataset, match=message):
        read_data([folder])


def test_a_folder_without_events_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no events, expected a file with a user and an item"):
        read_data([tmp_path])
    put(tmp_path, {"users.csv": "id,name\n1,Ann\n", "README.md": "Hello\n"})
    with pytest.raises(InvalidDataset, match=r"not read: README\.md .*; users\.csv \(no user and"):
        read_data([tmp_path])
    with pytest.raises(InvalidDataset, match=r"nowhere: no such file or folder"):
        read_data([tmp_path / "nowhere"])


def test_a_column_to_map_must_exist(tmp_path: Path) -> None:
    file = put(tmp_path, {"x.csv": f"{HEADER}u,a,{NOON}\n"})
    message = "--map user_id=who: no such column, expected one of user_id, item_id, timestamp"
    with pytest.raises(InvalidDataset, match=re.escape(message)):
        read_data([file], ReadingOptions(columns={"user_id": "who"}))


def test_wrong_rows_are_left_out_on_demand(tmp_path: Path) -> None:
    rows = f"u,a,{NOON}\n,a,{NOON}\nu,b,soon\nu,c\nu,d,{NOON + 1}\n"
    intake = read(tmp_path, {"x.csv": HEADER + rows}, skips_wrong=True)
    assert events(intake) == [("u", "a", NOON), ("u", "d", NOON + 1)]
    (note,) = notes(intake)
    assert note.startswith("3 wrong rows: ")
    assert "x.csv:4: time 'soon'" in note
    assert "x.csv:3: user_id is missing" in note


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEADER}u,a,{NOON}\nu,a,{NOON}\n", "1 events that stand twice"),
        (f"{HEADER}u,a,2024-05-01\n", "1 times without a zone"),
        ("user_id,item_id\nu,a\n", "the order of events is that of the rows"),
        (f"u,a,{NOON}\n", "no header; columns read as user, item, time"),
        (f"user_id,asin,parent_asin,ts\nu,a,b,{NOON}\n", "item_id is 'parent_asin', not 'asin'"),
    ],
)
def test_strict_refuses_to_drop_and_to_guess(content: str, said: str, tmp_path: Path) -> None:
    assert said in " ".join(notes(read(tmp_path, {"x.csv": content})))
    with pytest.raises(InvalidDataset, match=f"--strict refuses.*{re.escape(said)}"):
        read(tmp_path, {"x.csv": content}, is_strict=True)


def test_strict_takes_data_that_leave_nothing_open(tmp_path: Path) -> None:
    file, content = SAME_EVENTS["u.data"]
    assert read(tmp_path, {file: content}, is_strict=True).summary.events == 3


def test_a_summary_fits_a_terminal(tmp_path: Path) -> None:
    header = ",".join(["user_id", "item_id", "timestamp", *(f"column_{n}" for n in range(30))])
    row = ",".join(["u", "a", str(NOON), *["x"] * 30])
    intake = read(tmp_path, {"x.csv": f"{header}\n{row}\n{row}\n"})
    lines = intake.summary.render().splitlines()
    assert max(map(len, lines)) < 80
    assert "30 ignored: column_0" in intake.summary.render()
    assert [line for line in lines if line.startswith("dropped   1 events that stand twice")]


def test_the_log_has_the_summary_of_foreign_data_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    load_dataset(parquet(tmp_path, ROWS, TEXTS))
    assert caplog.text == ""
    load_dataset(put(tmp_path, {"u.data": SAME_EVENTS["u.data"][1]}))
    assert "1 ignored: rating" in caplog.text


def test_many_users_are_ordered_as_a_plain_loop_orders_them(
    tmp_path: Path, loop: Callable[[list[tuple[str, str, int]]], Dataset]
) -> None:
    rows = [(f"u{n * 7 % 13}", f"i{n * 5 % 11}", n * 31 % 17) for n in range(400)]
    content = HEADER + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    assert load_dataset(put(tmp_path, {"x.csv": content})).histories == loop(rows).histories


@pytest.fixture
def loop() -> Callable[[list[tuple[str, str, int]]], Dataset]:
    """Return the simplest reader of unique rows: a stable sort by time."""
    from models.catalog.dataset import Interaction

    def read_rows(rows: list[tuple[str, str, int]]) -> Dataset:
        histories: dict[str, list[Interaction]] = {}
        for user, item, time in sorted(dict.fromkeys(rows), key=lambda row: row[2]):
            history = histories.setdefault(user, [])
            history.append(Interaction(item, time, len(history)))
        return Dataset(histories, {})

    return read_rows


def test_a_title_beside_events_is_no_title_of_the_item(tmp_path: Path) -> None:
    """In Amazon's reviews it is the title of a review."""
    content = f"user_id,asin,timestamp,title,product_name\nu,a,{NOON},Great!,Soap\n"
    intake = read(tmp_path, {"reviews.csv": content})
    assert items(intake) == {"a": {"title": "Soap"}}
    assert intake.summary.read[0].ignored == ("title",)


def test_a_column_without_a_name_is_ignored(tmp_path: Path) -> None:
    content = f",user_id,item_id,timestamp,amount\n0,u,a,{NOON},x\n"
    intake = read(tmp_path, {"x.csv": content}, columns={"value": ""})
    assert intake.summary.read[0].ignored == ("", "amount")


def test_integers_that_pandas_made_fractions_are_ids(tmp_path: Path) -> None:
    intake = read(tmp_path, {"x.csv": f"{HEADER}7.0,08.5,{NOON}\n12.0,9.0,{NOON}\n"})
    assert events(intake) == [("12", "9.0", NOON), ("7", "08.5", NOON)]
    assert notes(intake)[0].endswith("ids of user_id such as 7.0 are read as 7")


def test_an_id_that_no_store_takes_is_a_wrong_row(tmp_path: Path) -> None:
    message = r"x\.csv:3: user_id 'u{40}' has 300 bytes, expected 1\.\.256"
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, {"x.csv": f"{HEADER}u,a,{NOON}\n{'u' * 300},a,{NOON}\n"})


def test_a_key_that_comes_late_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.intake.file_form._HEAD_BYTES_OF_JSON", 60)
    rows = [{"user": "u", "item": "a", "ts": NOON}, {"user": "u", "item": "b", "ts": NOON, "x": 1}]
    intake = read(tmp_path, {"x.jsonl": "\n".join(map(json.dumps, rows))})
    assert intake.summary.read[0].ignored == ("x",)


def test_a_csv_beside_its_parquet_is_not_read_again(tmp_path: Path) -> None:
    folder = parquet(tmp_path, ROWS, TEXTS)
    put(tmp_path, {"interactions.csv": "user_id,item_id,pos\n01,a,0\n"})
    assert read_data([folder]).summary.not_read == ("interactions.csv",)


def test_a_position_again_is_left_out_on_demand(tmp_path: Path) -> None:
    content = "user_id,item_id,pos\nu,a,0\nu,b,0\nu,c,1\n"
    intake = read(tmp_path, {"x.csv": content}, skips_wrong=True)
    assert events(intake) == [("u", "a"), ("u", "c")]
    assert notes(intake)[0].startswith("1 events with a position again: ")


@pytest.mark.parametrize("place", [0, 5, 6, 7, 8, 13])
def test_the_first_byte_that_is_not_utf_8_is_found_across_blocks(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.intake.file_form._BLOCK_BYTES", 3)
    sound = "aé\nb€cd\nefgh".encode()
    assert find_bad_byte(io.BytesIO(sound)) is None
    content = sound[:place] + b"\xff" + sound[place:]
    with pytest.raises(UnicodeDecodeError) as caught:
        content.decode()
    bad = find_bad_byte(io.BytesIO(content))
    assert bad is not None
    assert bad.place == caught.value.start
    assert bad.line == content.count(b"\n", 0, bad.place) + 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["Beauty", "Hair"], "Beauty > Hair"),
        ([["Beauty", "Hair"], ["Sale"]], "Beauty > Hair"),
        ([], None),
        ("A > B", "A > B"),
        ("A|B", "A > B"),
        ('["A", "B"]', "A > B"),
        ("(no genres listed)", None),
        (" ", None),
    ],
)
def test_categories_are_a_path(value: object, expected: str | None, tmp_path: Path) -> None:
    rows = [{"asin": "a", "category": value, "brand": "x"}]
    files: dict[str, str | bytes] = {
        "events.csv": f"{HEADER}u,a,{NOON}\n",
        "meta.jsonl": "\n".join(map(json.dumps, rows)),
    }
    assert items(read(tmp_path, files))["a"].get("categories") == expected


def test_a_folder_of_days_is_one_table(tmp_path: Path) -> None:
    """Pipelines of logs leave a folder a day, packed parts, and a mark of success."""
    days = {f"day={day}/part-0.csv.gz": f"{HEADER}u,{day},{NOON + day}\n" for day in range(3)}
    intake = read(tmp_path, {**days, "_SUCCESS": ""})
    assert events(intake) == [("u", str(day), NOON + day) for day in range(3)]
    assert len(intake.summary.read) == 1


def test_users_are_no_items(tmp_path: Path) -> None:
    folder = put(tmp_path, {"log.csv": f"{HEADER}u,a,{NOON}\n", "users.csv": "id,name\nu,Ann\n"})
    assert read_data([folder]).summary.items == 1
    message = r"users\.csv: columns id, name; expected a user and an item"
    with pytest.raises(InvalidDataset, match=message):
        read_data([folder / "log.csv", folder / "users.csv"])


def test_events_of_hidden_items_alone_are_refused(tmp_path: Path) -> None:
    items_file = "item_id,is_hidden\na,true\n"
    with pytest.raises(InvalidDataset, match="no events but those of hidden items"):
        read(tmp_path, {"log.csv": f"{HEADER}u,a,{NOON}\n", "items.csv": items_file})
