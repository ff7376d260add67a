"""Tombstones of erased users.

    OUT/erased.jsonl   one tombstone per line: hash of the user id, time of erasure

A tombstone hides everything that is older than itself. If the user returns, newer data is visible.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.errors import InvalidInput
from models.store.records import hash_user

_FILE = "erased.jsonl"


class Tombstones:
    def __init__(self, erased_ms: Mapping[int, int]) -> None:
        self._erased_ms = erased_ms

    @classmethod
    def load(cls, out_dir: Path) -> "Tombstones":
        """Read the tombstones. Raises InvalidInput for a damaged file: no user may come back."""
        file = out_dir / _FILE
        lines = file.read_text().splitlines() if file.is_file() else []
        erased_ms: dict[int, int] = {}
        for number, line in enumerate(lines, start=1):
            try:
                tombstone = json.loads(line)
                erased_ms[int(tombstone["user"], 16)] = int(tombstone["erased_ms"])
            except (ValueError, KeyError, TypeError) as exc:
                raise InvalidInput(f"{file}:{number}: not a tombstone") from exc
        return cls(erased_ms)

    def __len__(self) -> int:
        return len(self._erased_ms)

    def hides(self, user_id: str, moment_ms: int) -> bool:
        """Return True if data of this user from `moment_ms` (unix milliseconds) was erased."""
        return bool(self._erased_ms) and moment_ms <= self._erased_ms.get(hash_user(user_id), -1)


def write_tombstone(out_dir: Path, user_id: str, *, now_ms: int) -> None:
    """Write a tombstone and sync it to disk."""
    write_tombstones(out_dir, [hash_user(user_id)], now_ms=now_ms)


def write_tombstones(out_dir: Path, users: Iterable[int], *, now_ms: int) -> None:
    """Write tombstones of users, given by `hash_user`, and sync them to disk."""
    out_dir.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"user": f"{user:016x}", "erased_ms": now_ms}) for user in users]
    with (out_dir / _FILE).open("a") as stream:
        stream.writelines(line + "\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())
