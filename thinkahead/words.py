"""Reading of a few options before the command's own parser reads them all."""

import os
from collections.abc import Sequence
from pathlib import Path

from models.store.embedded import state_folder
from models.store.namespace import VARIABLE, namespace_of


def is_subcommand(arguments: Sequence[str]) -> bool:
    """Tell if the first word is a subcommand, not an option."""
    return bool(arguments) and not arguments[0].startswith("-")


def has(arguments: Sequence[str], *options: str) -> bool:
    """Tell if one of the options is there, as `--name value` or `--name=value`."""
    return any(word.split("=", 1)[0] in options for word in arguments)


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the last value of an option; None if it has none."""
    found = None
    for at, word in enumerate(arguments):
        if word == option and at + 1 < len(arguments):
            found = arguments[at + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def without(arguments: Sequence[str], option: str) -> list[str]:
    """Return the arguments without an option and its value."""
    left: list[str] = []
    skips = False
    for word in arguments:
        if not skips and word != option and not word.startswith(f"{option}="):
            left.append(word)
        skips = word == option
    return left


def with_namespace(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the namespace of --data, unless the user names one."""
    data = value_of(arguments, "--data")
    if data is None or has(arguments, "--namespace") or VARIABLE in os.environ:
        return list(arguments)
    return [*arguments, "--namespace", namespace_of(data)]


def beside(release: str | Path, suffix: str) -> Path:
    """Return the folder of the state folder that belongs to a release, as in `mine.live`."""
    return state_folder(None) / f"{Path(release).resolve().name}.{suffix}"
