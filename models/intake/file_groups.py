"""Files of one form as one table of raw columns, with the places of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.errors import InvalidDataset, one_line
from models.intake.data_files import DataFile
from models.intake.file_form import FileForm
from models.intake.json_reader import JsonPart
from models.intake.parquet_reader import ParquetPart
from models.intake.text_reader import TextPart
from models.intake.wrong_rows import Place, WrongRows


@dataclass(frozen=True)
class FileGroup:
    """Files of one form, read together."""

    files: tuple[DataFile, ...]
    table: "pa.Table"  # raw columns by field
    first: int  # row of all files of the role at which these begin
    late_columns: tuple[str, ...]  # columns that were found while reading, and are ignored

    @property
    def first_file(self) -> DataFile:
        return self.files[0]


@dataclass(frozen=True)
class FileGroups:
    """All files of one role."""

    groups: tuple[FileGroup, ...]
    wrong: WrongRows
    num_skipped: int  # lines that are no row at all


def read_groups(files: Sequence[DataFile], *, skips_wrong: bool) -> FileGroups:
    """Read files, those of one form and the same columns as one group.

    Raises InvalidDataset for files without rows, and for a file that is no table.
    """
    by_form: dict[tuple[object, ...], list[DataFile]] = {}
    for file in files:
        key = (file.form.label, file.form.encoding, tuple(file.chosen.columns.items()))
        by_form.setdefault(key, []).append(file)
    groups: list[FileGroup] = []
    places: list[Place] = []
    num_rows = 0
    for members in by_form.values():
        parts = [_open(file.form, skips_wrong=skips_wrong) for file in members]
        tables = [part.read(file.chosen.columns) for part, file in zip(parts, members, strict=True)]
        places += [
            Place(file.name, part, table.num_rows)
            for file, part, table in zip(members, parts, tables, strict=True)
        ]
        late = tuple(sorted({name for part in parts for name in part.late_columns}))
        groups.append(FileGroup(tuple(members), _join(members, tables), num_rows, late))
        num_rows += sum(table.num_rows for table in tables)
    if files and not num_rows:
        raise InvalidDataset(f"no rows in {', '.join(file.name for file in files)}")
    num_skipped = sum(place.part.num_skipped for place in places)
    return FileGroups(tuple(groups), WrongRows(places, skips=skips_wrong), num_skipped)


def _open(form: FileForm, *, skips_wrong: bool) -> JsonPart | ParquetPart | TextPart:
    if form.kind == "parquet":
        return ParquetPart(form)
    if form.kind == "json":
        return JsonPart(form, skips_wrong=skips_wrong)
    return TextPart(form, skips_wrong=skips_wrong)


def _join(files: Sequence[DataFile], tables: list["pa.Table"]) -> "pa.Table":
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise InvalidDataset(
            f"{files[0].name} and {len(files) - 1} other files: columns of several types "
            f"({one_line(exc)}), expected the same type in all"
        ) from exc
