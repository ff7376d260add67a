"""Optional table of a data folder, `users.parquet`: attributes of users, as text.

One row a user: `user_id`, and a column for each attribute. Knows nothing of histories or prompts.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import InvalidDataset

USERS = "users.parquet"
Attributes = Mapping[str, str]  # of one user, by name; without those that are not known


def load_users(data: Path) -> dict[str, Attributes]:
    """Read the attributes of users, by user id; empty where a data set has no such table.

    Raises InvalidDataset for an unreadable table, a missing or repeated id, or a column that is no
    text.
    """
    file = data / USERS
    if not file.is_file():
        return {}
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as exc:
        raise InvalidDataset(f"{file}: not a readable Parquet table ({exc})") from exc
    if "user_id" not in table.column_names:
        raise InvalidDataset(f"{file}: columns {table.column_names}, expected user_id among them")
    columns = {name: _texts(file, table, name) for name in table.column_names}
    user_ids, users = columns.pop("user_id"), dict[str, Attributes]()
    for row, user_id in enumerate(user_ids):
        if not user_id or user_id in users:
            problem = f"user {user_id!r} again" if user_id else "user_id is missing"
            raise InvalidDataset(f"{file}:{row}: {problem}, expected one row a user")
        users[user_id] = {name: text for name, of in columns.items() if (text := of[row])}
    return users


def attribute_names(users: Mapping[str, Attributes]) -> list[str]:
    """Return the names of all attributes that some user has, sorted."""
    return sorted({name for attributes in users.values() for name in attributes})


def _texts(file: Path, table: "pa.Table", name: str) -> list[str]:
    """Return a column as stripped text; a null becomes ""."""
    try:
        texts: list[str | None] = pc.cast(table[name], pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise InvalidDataset(
            f"{file}: column {name!r} is {table[name].type}, expected text"
        ) from exc
    return [(text or "").strip() for text in texts]
