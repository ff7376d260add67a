"""Reader of JSON lines, or of one JSON array: one object a row.

Ids keep their spelling: a number is written as it stands, never as a float. Knows nothing of fields
beyond their names.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from models.errors import InvalidDataset
from models.intake.file_form import FileForm, find_bad_byte, open_bytes

_LINES_A_PART = 50_000
_BYTES_A_READ = 1 << 24


class JsonPart:
    """Rows of one JSON file, and the lines on which they stand."""

    def __init__(self, form: FileForm, *, skips_wrong: bool) -> None:
        self.num_skipped = 0  # lines that are no object
        self._form = form
        self._skips_wrong = skips_wrong
        self._blank: list[int] = []  # lines without a row
        self._keys: set[str] = set()

    def read(self, columns: Mapping[str, str]) -> "pa.Table":
        """Read keys by field. Raises InvalidDataset with the line."""
        chunks: dict[str, list[pa.Array]] = {field: [] for field in columns}
        for rows in self._rows():
            self._keys.update(*rows)
            for field, key in columns.items():
                chunks[field].append(_to_array([row.get(key) for row in rows]))
        return pa.table({field: _join(parts) for field, parts in chunks.items()})

    @property
    def late_columns(self) -> tuple[str, ...]:
        """Return the keys that first come after the part that was looked at for columns."""
        return tuple(sorted(self._keys - {*self._form.names}))

    def line_of(self, row: int) -> int:
        """Return the line of a row, from 1; of an array, the place of the object in it."""
        line = row + 1
        for blank in self._blank:
            line += blank <= line
        return line

    def _rows(self) -> Iterator[list[dict[str, Any]]]:
        if self._form.label == "JSON array":
            yield self._check(self._parse(self._read_all(), 1), 1)
            return
        first = 1
        for lines in self._lines():
            yield self._parse_lines(lines, first)
            first += len(lines)

    def _lines(self) -> Iterator[list[bytes]]:
        left = b""
        with open_bytes(self._form.file) as stream:
            while block := stream.read(_BYTES_A_READ):
                *lines, left = (left + self._recode(block)).split(b"\n")
                for start in range(0, len(lines), _LINES_A_PART):
                    yield lines[start : start + _LINES_A_PART]
        yield [left]

    def _recode(self, block: bytes) -> bytes:
        if self._form.encoding == "utf-8":
            return block
        return block.decode(self._form.encoding).encode()

    def _read_all(self) -> bytes:
        with open_bytes(self._form.file) as stream:
            return self._recode(stream.read())

    def _parse_lines(self, lines: Sequence[bytes], first: int) -> list[dict[str, Any]]:
        """Parse all lines at once, or one by one where a line is not JSON."""
        if first == 1 and lines:
            lines = [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:]]
        filled = [line for line in lines if line and not line.isspace()]
        if len(filled) < len(lines):
            self._blank += [
                first + at for at, line in enumerate(lines) if not line or line.isspace()
            ]
        try:
            rows: list[Any] = orjson.loads(b"[" + b",".join(filled) + b"]")
            if len(rows) == len(filled) and all(type(row) is dict for row in rows):
                return rows
        except orjson.JSONDecodeError:
            pass  # the loop below finds the line
        return self._parse_each(lines, first)

    def _parse_each(self, lines: Sequence[bytes], first: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for line, text in enumerate(lines, first):
            if not text or text.isspace():
                continue
            try:
                rows += self._check([self._parse(text, line)], line)
            except InvalidDataset:
                if not self._skips_wrong:
                    raise
                self.num_skipped += 1
                self._blank.append(line)
        return rows

    def _parse(self, text: bytes, line: int) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            place = f"{self._form.file}:{line + exc.lineno - 1}"
            if (bad := find_bad_byte(io.BytesIO(text))) is not None:
                raise InvalidDataset(
                    f"{place}: byte {bad.value:#04x} at place {bad.place} of the line is "
                    "not UTF-8, expected UTF-8, or its encoding, such as --encoding latin-1"
                ) from exc
            raise InvalidDataset(
                f"{place}: not JSON ({exc.msg} at column {exc.colno}), expected one object a line"
            ) from exc

    def _check(self, rows: Any, first: int) -> list[dict[str, Any]]:
        for at, row in enumerate(rows):
            if not isinstance(row, dict):
                shown = orjson.dumps(row).decode()[:40]
                raise InvalidDataset(
                    f"{self._form.file}:{first + at}: {shown} is no object, "
                    "expected columns and values in braces"
                )
        return list(rows)


def _to_array(values: list[Any]) -> "pa.Array":
    """Convert values of one key: numbers or lists as they are, anything mixed as text."""
    try:
        array = pa.array(values)
        if not pa.types.is_floating(array.type) or _has_no_integer(values):
            return array
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass  # of several types
    return pa.array([_to_text(value) for value in values], pa.string())


def _has_no_integer(values: Sequence[Any]) -> bool:
    return not any(type(value) is int for value in values)


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _join(parts: list["pa.Array"]) -> "pa.ChunkedArray":
    """Join parts whose types may differ: a key may be a number here and text there."""
    types = {part.type for part in parts if not pa.types.is_null(part.type)}
    if len(types) <= 1:
        target = types.pop() if types else pa.null()
        return pa.chunked_array([part.cast(target) for part in parts], target)
    texts = [
        pa.array([_to_text(value) for value in part.to_pylist()], pa.string()) for part in parts
    ]
    return pa.chunked_array(texts)
