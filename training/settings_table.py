"""One table of a TOML file as a dataclass. Imports nothing that takes seconds to load."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import InvalidSettings


def fill_table(file: Path, table: str, default: Any, values: Mapping[str, Any]) -> Any:
    """Return a dataclass with some fields replaced by those of a table of a TOML file.

    Raises InvalidSettings for an unknown key, another type, or a value that it refuses.
    """
    expected = {entry.name: getattr(default, entry.name) for entry in dataclasses.fields(default)}
    if unknown := sorted(set(values) - set(expected)):
        raise InvalidSettings(
            f"{file}: [{table}] has unknown keys {unknown}, expected {sorted(expected)}"
        )
    filled = {}
    for key, value in values.items():
        value = tuple(value) if isinstance(value, list) else value
        wanted = type(expected[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise InvalidSettings(
                f"{file}: [{table}] {key} = {value!r}, expected {wanted.__name__}"
            )
        filled[key] = value
    try:
        return dataclasses.replace(default, **filled)
    except ValueError as exc:
        raise InvalidSettings(f"{file}: [{table}] {exc}") from exc
