"""TOML files of settings: a dataclass for the file, with a dataclass for each of its tables."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from models.errors import InvalidSettings
from training.event_types import read_types

Settings = TypeVar("Settings")


def read_settings(file: Path, default: Settings) -> Settings:
    """Read a file over its defaults; absent tables and keys keep these.

    default: a dataclass. Its fields that are dataclasses are tables of the file, and so is `types`
    with the weights of event types. Raises InvalidSettings naming the file and the key that is
    wrong.
    """
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise InvalidSettings(f"{file}: not a readable TOML file ({exc})") from exc
    made: Any = default
    known = {entry.name: getattr(made, entry.name) for entry in dataclasses.fields(made)}
    del known["seed"]
    if unknown := sorted(set(tables) - set(known)):
        raise InvalidSettings(f"{file}: unknown tables {unknown}, expected among {sorted(known)}")
    parts = {}
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise InvalidSettings(f"{file}: {name} = {values!r}, expected a table")
        is_of_types = name == "types"
        parts[name] = (
            read_types(file, values) if is_of_types else fill_table(file, name, known[name], values)
        )
    filled: Settings = dataclasses.replace(made, **parts)
    return filled


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
