"""Reads a YAML file of settings into plain values, and rejects unknown keys by name.

The caller passes the known keys. Knows nothing of their meaning.
"""

import difflib
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import yaml

from models.errors import InvalidSettings

_MAX_BYTES = 1 << 20


def read_config(path: Path, *, known: Collection[str]) -> dict[str, Any]:
    """Return the values by name; an empty file gives an empty dict.

    Raises InvalidSettings, naming the file and the line or key, if the text is not YAML or not a
    mapping, or if a key is unknown or repeated.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise InvalidSettings(f"{path}: cannot be read: {why}") from exc
    loaded = _load(path, text)
    if not isinstance(loaded, dict):
        raise InvalidSettings(f"{path}: expected a mapping of settings")
    for key in loaded:
        if key not in known:
            raise InvalidSettings(f"{path}: {key} is not a setting{did_you_mean(str(key), known)}")
    return loaded


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return "; did you mean X?" for the closest known name, or "" if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _load(path: Path, text: str) -> Any:
    if len(text) > _MAX_BYTES:
        raise InvalidSettings(f"{path}: {len(text)} characters, expected at most {_MAX_BYTES}")
    try:
        return yaml.load(text, Loader=_Loader) or {}  # a SafeLoader
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InvalidSettings(f"{where}: {getattr(exc, 'problem', None) or exc}") from exc
    except (ValueError, RecursionError) as exc:  # an impossible date, or brackets nested too deep
        raise InvalidSettings(f"{path}: cannot be read as YAML: {exc}") from exc


class _Loader(yaml.SafeLoader):
    """Reject repeated keys; YAML silently keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                problem = f"the key {key} is repeated"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)
