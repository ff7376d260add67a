"""A YAML file of settings, read into plain values; what is unknown in it is named.

Knows which names there are only from its caller. Nothing of what they mean.
"""

import difflib
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import yaml

from models.errors import InvalidSettings

_MAX_BYTES = 1 << 20


def read_config(path: Path, *, known: Collection[str]) -> dict[str, Any]:
    """Values by name; an empty file has none.

    Raises InvalidSettings, with the file and the line or the key, for what is no YAML, no mapping,
    or holds a key that is not in `known` or stands there twice.
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
    """ "; did you mean X?", or nothing where nothing is close."""
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
    except (ValueError, RecursionError) as exc:  # a date that is none, or brackets without end
        raise InvalidSettings(f"{path}: cannot be read as YAML: {exc}") from exc


class _Loader(yaml.SafeLoader):
    """Of two equal keys YAML takes the last without a word; we refuse."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                problem = f"the key {key} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)
