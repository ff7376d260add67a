"""A finished generation on disk, as loading and activation see it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InvalidInput
from models.program import program
from offline.disk.shards import is_finished


@dataclass(frozen=True)
class Generation:
    """A finished generation."""

    folder: Path
    summary: dict[str, Any]  # content of `_SUCCESS.json`

    @property
    def number(self) -> int:
        """Unix milliseconds of its plan, so that a later generation has a greater number."""
        return int(self.summary["generation"])

    @property
    def created_at(self) -> int:
        """Unix seconds of its plan."""
        return int(self.summary["created_at"])

    @property
    def is_base(self) -> bool:
        return bool(self.summary["layer"] == "base")

    @property
    def is_on_demand(self) -> bool:
        """True for a layer of the workers, to which rows are still being added."""
        return bool(self.summary.get("on_demand", False))

    @property
    def replaced(self) -> int | None:
        """Generation of the delta that this one replaces, carrying over its rows."""
        found = self.summary.get("replaced")
        return None if found is None else int(found)

    @property
    def num_records(self) -> int:
        """Records at the time it was finished; rows may have been added or hidden since."""
        return int(self.summary.get("refreshed", 0)) + int(self.summary.get("carried", 0))

    @property
    def num_due(self) -> int:
        """Number of users that should have a record in it; 0 if unknown."""
        return int(self.summary.get("users_due", 0)) + int(self.summary.get("carried", 0))

    @property
    def has_been_live(self) -> bool:
        """True for a layer of the workers, or with a summary.json, which activation writes."""
        return self.is_on_demand or (self.folder / "summary.json").is_file()

    @property
    def release(self) -> str:
        return str(self.summary["release"])


def open_generation(folder: Path) -> Generation:
    """Open a generation. Raises InvalidInput for a folder without a finished one."""
    if not is_finished(folder):
        raise InvalidInput(f"{folder}: missing or not finished, expected {folder}/_SUCCESS.json")
    try:
        generation = Generation(folder, json.loads((folder / "_SUCCESS.json").read_text()))
        _ = (generation.number, generation.created_at, generation.is_base, generation.release)
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{folder}/_SUCCESS.json: not a summary of a generation") from exc
    return generation


def find_generation(out_dir: Path, number: int | None) -> Generation:
    """Open generation `number`, or the newest finished one that no worker made.

    Raises InvalidInput if there is none.
    """
    if number is not None:
        return open_generation(out_dir / str(number))
    for generation in finished(out_dir):
        if not generation.is_on_demand:
            return generation
    raise InvalidInput(f"{out_dir}: no finished generation: run `{program('offline')} refresh`")


def finished(out_dir: Path) -> Iterator[Generation]:
    """Yield finished generations, newest first. A folder that does not open is skipped."""
    for folder in folders(out_dir):
        try:
            yield open_generation(folder)
        except InvalidInput:
            continue


def folders(out_dir: Path) -> list[Path]:
    """Return the folders of all generations, finished or not, newest first."""
    found = [folder for folder in out_dir.glob("[0-9]*") if folder.name.isdecimal()]
    return sorted(found, key=lambda folder: int(folder.name), reverse=True)
