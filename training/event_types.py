"""Weights of event types: the table `[types]` of recipes and of settings.

    [types]
    view = 0.2
    purchase = 1

A type that the table does not name weighs 1. An event of weight 0 is neither learnt nor counted,
and stays in the history.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import InvalidSettings
from models.release.release import Release

TypeWeights = Mapping[str, float]  # by event type


def weight_of(types: TypeWeights, event_type: str) -> float:
    return types.get(event_type, 1.0)


def types_of(release: Release) -> dict[str, float]:
    """Return the weights by which a release was trained; empty where all weigh 1."""
    return dict(release.manifest.recipe.get("types", {}))


def read_types(file: Path, table: Mapping[str, Any]) -> dict[str, float]:
    """Read the table of a file. Raises InvalidSettings naming the file and the type."""
    for name, value in table.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float("inf"):
            raise InvalidSettings(
                f"{file}: [types] {name} = {value!r}, expected a number from 0 up"
            )
    return {name: float(value) for name, value in table.items()}
