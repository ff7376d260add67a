"""Everything about one user goes, and no repair brings it back.

The tombstone is written first: whatever is interrupted after it, nothing of the user is loaded,
carried or restored again. The store and the archive are then cleaned; shards keep the hidden rows
until their generation is collected.
"""

import json
from pathlib import Path
from typing import Any

from models.events import check_user_id
from models.store import NightStore
from offline.archive import forget_user
from offline.erased import bury
from offline.generation import folders
from offline.shards import write_text


async def erase(user_id: str, store: NightStore, out_dir: Path, *, now_ms: int) -> dict[str, Any]:
    """What went. Raises InvalidUserId or StoreUnavailable; it can then be run again."""
    check_user_id(user_id)
    bury(out_dir, user_id, now_ms=now_ms)
    num_keys = await store.erase_user(user_id)
    num_events = forget_user(out_dir, user_id)
    num_letters = sum(_forget_dead_letters(folder, user_id) for folder in folders(out_dir))
    return {"keys": num_keys, "archived_events": num_events, "dead_letters": num_letters}


def _forget_dead_letters(folder: Path, user_id: str) -> int:
    file = folder / "failed.jsonl"
    if not file.is_file():
        return 0
    lines = file.read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("user_id") != user_id]
    if len(kept) < len(lines):
        write_text(file, "".join(f"{line}\n" for line in kept))
    return len(lines) - len(kept)
