"""Reader of text tables: every column as text, so that `007` stays `007`.

Knows nothing of fields beyond their names. Wrong bytes and lines are named by line.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from itertools import islice

import pyarrow as pa
import pyarrow.csv as pacsv

from models.errors import InvalidDataset, one_line
from models.intake.file_form import FileForm, find_bad_byte, open_bytes

_SEPARATOR = "\x1f"  # stands for "::", since Arrow divides at one character
_REPEATED = ("user_id", "item_id", "type")  # their values are kept once
_LONGEST_FIELD = 1 << 27  # characters; the library's own limit is below a long description
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())


class TextPart:
    """Rows of one text file, and the lines on which they stand."""

    late_columns: tuple[str, ...] = ()

    def __init__(self, form: FileForm, *, skips_wrong: bool) -> None:
        self.num_skipped = 0  # lines with another number of columns
        self._form = form
        self._skips_wrong = skips_wrong

    def read(self, columns: Mapping[str, str]) -> "pa.Table":
        """Read columns by field. Raises InvalidDataset with the line."""
        form = self._form
        places = {field: str(form.names.index(name)) for field, name in columns.items()}
        places |= {name: str(form.names.index(name)) for name in form.flags}
        taken = list(dict.fromkeys(places.values()))
        types = {
            place: _DICTIONARY if field in _REPEATED else pa.string()
            for field, place in places.items()
        }
        if self._skips_wrong:
            self._check_bytes()  # Arrow cannot show a line with a wrong byte to its handler
        table = self._parse(taken, types)
        return pa.table({field: table[place] for field, place in places.items()})

    def line_of(self, row: int) -> int:
        """Return the line of a row, from 1, by reading the file once more."""
        rows = self._rows()
        wide = (line for line, values in rows if len(values) == len(self._form.names))
        return next(islice(wide, row, None), 0)

    def _parse(self, taken: list[str], types: Mapping[str, "pa.DataType"]) -> "pa.Table":
        form = self._form
        names = [str(place) for place in range(len(form.names))]
        try:
            with self._open() as stream:
                return pacsv.read_csv(
                    stream,
                    read_options=pacsv.ReadOptions(
                        column_names=names,
                        skip_rows=int(form.has_header),
                        encoding=form.encoding,
                        block_size=1 << 24,
                    ),
                    parse_options=pacsv.ParseOptions(
                        delimiter=_SEPARATOR if form.delimiter == "::" else form.delimiter,
                        quote_char='"' if form.has_quotes else False,
                        newlines_in_values=form.has_quotes,
                        invalid_row_handler=self._skip if self._skips_wrong else None,
                    ),
                    convert_options=pacsv.ConvertOptions(include_columns=taken, column_types=types),
                )
        except pa.ArrowInvalid as exc:
            if "Could not skip" in str(exc) or "Empty CSV" in str(exc):
                return pa.table({place: pa.array([], kind) for place, kind in types.items()})
            raise self._explain(exc) from exc
        except (OSError, UnicodeError) as exc:
            raise self._explain(exc) from exc

    def _skip(self, _row: "pacsv.InvalidRow") -> str:
        self.num_skipped += 1
        return "skip"

    def _open(self) -> "pa.NativeFile":
        stream = open_bytes(self._form.file)
        if self._form.delimiter != "::":
            return stream
        with stream:
            return pa.BufferReader(stream.read().replace(b"::", _SEPARATOR.encode()))

    def _explain(self, exc: Exception) -> InvalidDataset:
        """Name the line at which a file stops to be a table."""
        form = self._form
        self._check_bytes()
        for line, values in self._rows():
            if len(values) != len(form.names):
                return InvalidDataset(
                    f"{form.file}:{line}: {len(values)} columns, expected {len(form.names)}"
                )
        return InvalidDataset(f"{form.file}: not a readable table ({one_line(exc)})")

    def _check_bytes(self) -> None:
        form = self._form
        if form.encoding != "utf-8":
            return
        with open_bytes(form.file) as stream:
            bad = find_bad_byte(stream)
        if bad is not None:
            raise InvalidDataset(
                f"{form.file}:{bad.line}: byte {bad.value:#04x} at place {bad.place} is not "
                "UTF-8, expected UTF-8, or its encoding, such as --encoding latin-1"
            )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line and values of each row with a value, without the header."""
        rows = (row for row in self._all_rows() if row[1] not in ([], [""]))
        yield from islice(rows, int(self._form.has_header), None)

    def _all_rows(self) -> Iterator[tuple[int, list[str]]]:
        form = self._form
        with (
            open_bytes(form.file) as stream,
            io.TextIOWrapper(stream, form.encoding, errors="replace", newline="") as lines,
        ):
            if form.has_quotes:
                csv.field_size_limit(_LONGEST_FIELD)
                reader, line = csv.reader(lines, delimiter=form.delimiter), 1
                for values in reader:
                    yield line, values
                    line = reader.line_num + 1
            else:
                for line, text in enumerate(lines, 1):
                    yield line, text.rstrip("\r\n").split(form.delimiter)
