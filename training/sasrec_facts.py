"""Facts of a trained SASRec: figures and inputs, in a file that marks its folder as whole."""

import json
from pathlib import Path
from typing import Any

from models.errors import InvalidInput

FACTS = "metrics.json"


def is_made(folder: Path) -> bool:
    """Tell if a folder holds a whole SASRec."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of a trained SASRec. Raises InvalidInput for an unreadable file."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{folder / FACTS}: no facts of a SASRec ({exc})") from exc
    return facts
