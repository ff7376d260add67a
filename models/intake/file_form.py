"""Form of a file: Parquet, JSON lines or a text table; its delimiter, its columns, its encoding.

A form is recognised by the content, never by the file's name. Knows nothing of roles or values.
"""

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import InvalidDataset, one_line
from models.intake.column_names import is_usual

_HEAD_BYTES = 1 << 18
_HEAD_BYTES_OF_JSON = 1 << 23  # keys may be missing in the first objects
_BLOCK_BYTES = 1 << 22
_SAMPLE_LINES = 50
_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", "::": "double colons"}
_RECBOLE = re.compile(r"[^:]+:(token|token_seq|float|float_seq)")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_U_ITEM = ("item_id", "title", "release_date", "video_release_date", "url", *_GENRES)
_YEAR_2000_S = 946_684_800


@dataclass(frozen=True)
class FileForm:
    """Form of one file."""

    file: Path
    kind: Literal["parquet", "json", "text"]
    label: str  # shown in the summary
    names: tuple[str, ...]  # columns, in the order of the file
    delimiter: str = ","
    has_quotes: bool = True  # values may stand in double quotes
    has_header: bool = True
    encoding: str = "utf-8"
    flags: tuple[str, ...] = ()  # columns that are 1 for items of the category of that name
    words: frozenset[str] = frozenset()  # columns that hold words divided by blanks
    guess: str | None = None  # a fact about the file that it does not say itself


def recognise(file: Path, *, encoding: str | None, wishes: Mapping[str, str]) -> FileForm:
    """Look at the beginning of a file. Raises InvalidDataset for one that is no table."""
    head = _read_head(file, _HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return FileForm(file, "parquet", "Parquet", tuple(_schema(file).names))
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InvalidDataset(f"{file}: a zip archive or an Excel sheet, expected text or Parquet")
    if not head.strip():
        raise InvalidDataset(f"no rows in {file}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = encoding or "utf-16"
    text = _decode(file, head, encoding)
    if text.lstrip()[:1] in ("{", "["):
        return _json_form(file, text.lstrip()[0], encoding)
    return _text_form(file, text, encoding, wishes)


def open_bytes(file: Path) -> "pa.NativeFile":
    """Open a file, unpacked if its name ends in .gz, .bz2 or .zst."""
    try:
        return pa.input_stream(str(file), compression="detect")
    except FileNotFoundError:
        raise InvalidDataset(f"{file}: no such file") from None
    except OSError as exc:
        raise InvalidDataset(f"{file}: cannot be read ({one_line(exc)})") from exc


def _read_head(file: Path, num_bytes: int) -> bytes:
    try:
        with open_bytes(file) as stream:
            return bytes(stream.read(num_bytes))
    except (OSError, pa.ArrowInvalid) as exc:
        raise InvalidDataset(f"{file}: cannot be read ({one_line(exc)})") from exc


def _schema(file: Path) -> "pa.Schema":
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowInvalid) as exc:
        raise InvalidDataset(f"{file}: not a readable Parquet table ({one_line(exc)})") from exc


def _decode(file: Path, head: bytes, encoding: str | None) -> str:
    """Decode the beginning for recognition; bytes that do not decode are found when it is read."""
    try:
        return head.decode(encoding or "utf-8", errors="replace").removeprefix("\ufeff")
    except LookupError:
        raise InvalidDataset(f"--encoding {encoding}: no such encoding, such as latin-1") from None


def _json_form(file: Path, bracket: str, encoding: str | None) -> FileForm:
    """Find the keys of the first objects."""
    if bracket == "[":
        label, names = "JSON array", _keys(_array_lines(file))
    else:
        text = _decode(file, _read_head(file, _HEAD_BYTES_OF_JSON), encoding)
        label, names = "JSON lines", _keys(text.split("\n"))
    return FileForm(file, "json", label, names, encoding=encoding or "utf-8")


def _array_lines(file: Path) -> list[bytes]:
    """Return the first objects of a JSON array, a line each."""
    with open_bytes(file) as stream:
        try:
            rows = orjson.loads(stream.read())
        except orjson.JSONDecodeError as exc:
            raise InvalidDataset(f"{file}:{exc.lineno}: not JSON ({exc.msg})") from exc
    return [orjson.dumps(row) for row in rows[:1000]]


def _keys(lines: Sequence[str | bytes]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # the reader names the line
        names.update(dict.fromkeys(row) if isinstance(row, dict) else {})
    return tuple(names)


def _text_form(file: Path, text: str, encoding: str | None, wishes: Mapping[str, str]) -> FileForm:
    rows, delimiter = _split(text)
    first = [name.strip() for name in rows[0]]
    label = "TSV" if delimiter == "\t" else "CSV" if delimiter == "," else "text"
    if delimiter not in ("\t", ","):
        label = f"{label} with {_DELIMITERS[delimiter]}"
    if all(_RECBOLE.fullmatch(name) for name in first):
        names = tuple(name.rpartition(":")[0] for name in first)
        words = frozenset(name.removesuffix(":token_seq") for name in first if "_seq" in name)
        return FileForm(
            *(file, "text", "RecBole", names, delimiter),
            has_quotes=False,
            encoding=encoding or "utf-8",
            words=words,
        )
    numbered = any(column.isdigit() for column in wishes.values())  # only a file without a header
    if any(map(is_usual, first)) or (not numbered and set(first) & set(wishes.values()) - {""}):
        has_quotes = delimiter != "::"
        return FileForm(
            file, "text", label, tuple(first), delimiter, has_quotes, encoding=encoding or "utf-8"
        )
    if numbered or delimiter == "::" or any(_NUMBER.fullmatch(value) for value in first):
        return _headless(file, rows, delimiter, encoding, wishes, label)
    return FileForm(file, "text", label, tuple(first), delimiter, encoding=encoding or "utf-8")


def _split(text: str) -> tuple[list[list[str]], str]:
    """Divide the first lines by the delimiter that divides them most evenly."""
    lines = [line for line in re.split(r"\r?\n|\r", text) if line.strip()][:_SAMPLE_LINES]
    sample = "\n".join(lines[:-1] if len(lines) > 2 else lines)
    best: tuple[tuple[bool, int], list[list[str]], str] | None = None
    for delimiter in _DELIMITERS:
        if delimiter == "::":
            rows = [line.split("::") for line in sample.split("\n")]
        else:
            rows = _csv_rows(sample, delimiter)
        width = len(rows[0])
        quality = (width > 1 and all(len(row) == width for row in rows), width)
        if best is None or quality > best[0]:
            best = quality, rows, delimiter
    assert best is not None
    return best[1], best[2] if best[0][1] > 1 else ","


def _csv_rows(sample: str, delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter))
    except csv.Error:  # a field beyond the limit of the library, in a file of another delimiter
        return [[sample]]


def _headless(
    file: Path,
    rows: Sequence[Sequence[str]],
    delimiter: str,
    encoding: str | None,
    wishes: Mapping[str, str],
    label: str,
) -> FileForm:
    """Name the columns of a file without a header, by the forms that are widely used."""
    width = len(rows[0])
    names: tuple[str, ...] = tuple(str(place + 1) for place in range(width))
    guess: str | None = "no header; columns are named by their number"
    flags: tuple[str, ...] = ()
    if not any(column.isdigit() for column in wishes.values()):
        if delimiter == "|" and width == len(_U_ITEM):
            names, flags, label, guess = _U_ITEM, _GENRES, "MovieLens u.item", None
        elif delimiter == "::" and width == 3 and not _is_time(rows[0][2]):
            names, label, guess = ("item_id", "title", "genres"), "MovieLens movies.dat", None
        elif width == 4 and all(_is_rating(row) for row in rows):
            names, label, guess = _RATINGS, *_rating_label(delimiter, label)
        elif width == 3 and all(len(row) == 3 and _is_time(row[2]) for row in rows):
            names = ("user_id", "item_id", "timestamp")
            guess = "no header; columns read as user, item, time"
    known_latin = bool(flags) or delimiter == "::"
    if encoding is None and known_latin and not _is_utf8(file):
        encoding, label = "latin-1", f"{label}, Latin-1 as published"
    return FileForm(
        *(file, "text", label, names, delimiter),
        has_quotes=delimiter not in ("::", "|"),
        has_header=False,
        encoding=encoding or "utf-8",
        flags=flags,
        guess=guess,
    )


def _rating_label(delimiter: str, label: str) -> tuple[str, str | None]:
    if delimiter == "\t":
        return "MovieLens u.data", None
    if delimiter == "::":
        return "MovieLens ratings.dat", None
    return label, "no header; columns read as user, item, rating, time"


def _is_rating(row: Sequence[str]) -> bool:
    return len(row) == 4 and bool(_NUMBER.fullmatch(row[2])) and _is_time(row[3])


def _is_time(text: str) -> bool:
    if _NUMBER.fullmatch(text):
        return float(text) > _YEAR_2000_S / 2
    return re.match(r"\d{4}-\d\d-\d\d", text) is not None


def _is_utf8(file: Path) -> bool:
    with open_bytes(file) as stream:
        return find_bad_byte(stream) is None


class BadByte(NamedTuple):
    """A byte that is not UTF-8."""

    value: int
    place: int  # from 0
    line: int  # from 1


def find_bad_byte(stream: "pa.NativeFile | io.BytesIO") -> BadByte | None:
    """Find the first byte that is not UTF-8; None without one."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    place, line, block = 0, 1, b""
    while True:
        pending = decoder.getstate()[0]
        block = stream.read(_BLOCK_BYTES)
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as exc:
            read = pending + block
            line += read.count(b"\n", 0, exc.start)
            return BadByte(read[exc.start], place - len(pending) + exc.start, line)
        if not block:
            return None
        place, line = place + len(block), line + block.count(b"\n")
