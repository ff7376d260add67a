"""A data folder over the toy catalog, as an import reads it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.catalog.catalog import Catalog
from tests.fakes.toy import toy_histories


def write_toy_data(catalog: Catalog, folder: Path, *, num_users: int = 6) -> Path:
    """Write histories of some users, and the items without texts; return the folder."""
    folder.mkdir()
    rows = [
        {"user_id": f"user-{user}", "item_id": catalog.item_ids[row], "pos": at}
        for user, history in enumerate(toy_histories(catalog, num_users=num_users))
        for at, row in enumerate(history)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    pq.write_table(pa.table({"item_id": list(catalog.item_ids)}), folder / "items.parquet")
    return folder
