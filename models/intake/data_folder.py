"""Canonical data folder: `interactions.parquet`, `items.parquet` and `summary.json`, written whole.

Also the digest of data, which a release and a store keep.
"""

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.durable import sync_file, sync_folder, write_text
from models.errors import InvalidInput
from models.intake.data_files import find_data_files
from models.intake.intake import Intake
from models.intake.reading_options import ReadingOptions
from models.intake.users_table import USERS

INTERACTIONS, ITEMS = "interactions.parquet", "items.parquet"
_RULES = 1  # raise it when the same foreign files give other tables


def write_data(intake: Intake, folder: Path) -> None:
    """Write a data folder, which appears complete or not at all.

    Raises InvalidInput if the folder exists.
    """
    if folder.exists():
        raise InvalidInput(f"{folder}: exists already, expected a folder to be made")
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write_table(intake.interactions, draft / INTERACTIONS)
        _write_table(intake.items, draft / ITEMS)
        write_text(draft / "summary.json", intake.summary.model_dump_json(indent=1) + "\n")
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def data_digest(path: Path) -> str:
    """Hash the files of a data set (SHA-256): of a canonical folder, its tables.

    Raises InvalidDataset for a path without events.
    """
    digest = hashlib.sha256()
    tables = [path / INTERACTIONS, path / ITEMS]
    if not all(table.is_file() for table in tables):
        found = find_data_files([path], ReadingOptions())
        tables = [file.form.file for file in (*found.interactions, *found.items)]
        digest.update(f"intake {_RULES}\0".encode())
    tables += [path / USERS] if (path / USERS).is_file() else []
    for table in tables:
        with table.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _write_table(table: "pa.Table", file: Path) -> None:
    """Write a table; ids, kept as dictionaries in memory, are text in the file."""
    pq.write_table(table, file, compression="zstd", store_schema=False)
    sync_file(file)
