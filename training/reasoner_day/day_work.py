"""The work folder of a reasoner's day: finished stages, so that a killed day goes on.

WORK/reasoner_day/day.json       the day that is in work: its watermarks and inputs
WORK/reasoner_day/<stage>.json   report of a finished stage
"""

import json
import shutil
from pathlib import Path
from typing import Any

from models.durable import write_text
from models.errors import InvalidInput

_DAY = "day.json"


class DayWork:
    """One work folder; what a day left behind is removed when another day begins."""

    def __init__(self, work: Path) -> None:
        self.folder = work / "reasoner_day"
        self.folder.mkdir(parents=True, exist_ok=True)

    def until(self, begun: dict[str, Any]) -> str | None:
        """Return the end of the day in work, if it begins in the same way; otherwise None.

        Raises InvalidInput for a damaged file.
        """
        file = self.folder / _DAY
        if not file.is_file():
            return None
        try:
            held = json.loads(file.read_text())
            return str(held["until"]) if held["begun"] == begun else None
        except (ValueError, KeyError, TypeError) as exc:
            raise InvalidInput(f"{file}: not a day in work, remove {self.folder}") from exc

    def begin(self, begun: dict[str, Any], until: str, inputs: str) -> None:
        """Begin a day, or go on with it; what other inputs left behind is removed."""
        day = {"begun": begun, "until": until, "inputs": inputs}
        file = self.folder / _DAY
        if file.is_file() and json.loads(file.read_text()) == day:
            return
        shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_text(file, json.dumps(day))

    def end(self) -> None:
        """End the day in work; the next one begins from nothing."""
        (self.folder / _DAY).unlink(missing_ok=True)

    def report(self, stage: str) -> dict[str, Any] | None:
        """Read the report of a stage; None before it is finished."""
        file = self.folder / f"{stage}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def finish(self, stage: str, report: dict[str, Any]) -> None:
        write_text(self.folder / f"{stage}.json", json.dumps(report))
