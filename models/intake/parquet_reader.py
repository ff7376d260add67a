"""Reader of Parquet files: the columns that fields take, with the types that the file has."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import InvalidDataset, one_line
from models.intake.file_form import FileForm

_REPEATED = ("user_id", "item_id", "type")  # their values are kept once


class ParquetPart:
    """Rows of one Parquet file; a row is named by its number, from 0."""

    num_skipped = 0
    late_columns: tuple[str, ...] = ()

    def __init__(self, form: FileForm) -> None:
        self._form = form

    def read(self, columns: Mapping[str, str]) -> "pa.Table":
        """Read columns by field. Raises InvalidDataset for a damaged file."""
        repeated = [name for field, name in columns.items() if field in _REPEATED]
        try:
            with pq.ParquetFile(self._form.file, read_dictionary=repeated) as file:
                table = file.read(columns=list(dict.fromkeys(columns.values())))
        except (OSError, pa.ArrowInvalid) as exc:
            raise InvalidDataset(
                f"{self._form.file}: not a readable Parquet table ({one_line(exc)})"
            ) from exc
        return pa.table({field: table[name] for field, name in columns.items()})

    def line_of(self, row: int) -> int:
        return row
