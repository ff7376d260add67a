"""Checks of the files of a release before anything reads them.

A release may come from anybody. It holds no code, its files are exactly those of its manifest, and
what is parsed as a whole has a size that parsing survives. Knows nothing of their meaning.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from models.errors import InvalidRelease

MANIFEST = "manifest.json"
MIB = 1 << 20
# Largest sizes of files that are parsed as a whole. The tokenizer of Qwen3 has 11 MiB.
_MAX_BYTES = {
    MANIFEST: 64 * MIB,
    "extend.onnx": 16 * MIB,
    "reasoner/config.json": MIB,
    "reasoner/generation_config.json": MIB,
    "reasoner/tokenizer.json": 64 * MIB,
    "reasoner/tokenizer_config.json": 16 * MIB,
}
# Suffixes of a folder that `transformers` reads without running code from it.
_REASONER_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja", ".md")
_HOLDS_SETTINGS = ("reasoner/config.json", "reasoner/tokenizer_config.json")


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """Read a file of at most `max_bytes`. Raises OSError, or InvalidRelease for a larger one."""
    if (size := file.stat().st_size) > max_bytes:
        raise InvalidRelease(f"{file}: {size:,} bytes, expected at most {max_bytes:,}")
    return file.read_bytes()


def read_manifest_bytes(file: Path) -> bytes:
    """Read a manifest. Raises InvalidRelease if that is impossible, or if it is too large."""
    try:
        return read_bounded(file, _MAX_BYTES[MANIFEST])
    except OSError as exc:
        raise InvalidRelease(
            f"{file}: cannot be read ({exc.strerror}), expected a release"
        ) from exc


def verify_files(directory: Path, files: Mapping[str, str]) -> None:
    """Compare the files of a release with the SHA-256 of its manifest, by relative path.

    Raises InvalidRelease for a file that is missing, altered, not listed, too large, or code.
    """
    for name, expected in sorted(files.items()):
        file = directory / name
        _check_path(directory, name)
        if not file.is_file():
            raise InvalidRelease(f"{file}: missing, expected SHA-256 {expected[:12]}...")
        _check_size(file, name)
        if (actual := digest(file)) != expected:
            raise InvalidRelease(f"{file}: SHA-256 {actual[:12]}..., expected {expected[:12]}...")
        if name.startswith("reasoner/"):
            _check_reasoner_file(file, name)
    _check_nothing_else(directory, files)


def _check_path(directory: Path, name: str) -> None:
    if not (directory / name).resolve().is_relative_to(directory.resolve()):
        raise InvalidRelease(f"{directory}: manifest names {name!r}, expected a path inside")


def _check_size(file: Path, name: str) -> None:
    limit = _MAX_BYTES.get(name)
    if limit is not None and (size := file.stat().st_size) > limit:
        raise InvalidRelease(f"{file}: {size:,} bytes, expected at most {limit:,}")


def _check_reasoner_file(file: Path, name: str) -> None:
    if file.suffix not in _REASONER_SUFFIXES:
        raise InvalidRelease(
            f"{file}: expected a file that ends with one of {', '.join(_REASONER_SUFFIXES)}"
        )
    if name in _HOLDS_SETTINGS and "auto_map" in _read_object(file):
        raise InvalidRelease(f"{file}: auto_map names code, expected a model of transformers' own")


def _read_object(file: Path) -> dict[str, object]:
    try:
        settings = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise InvalidRelease(f"{file}: {type(exc).__name__}, expected JSON") from exc
    if not isinstance(settings, dict):
        raise InvalidRelease(f"{file}: expected a JSON object")
    return settings


def _check_nothing_else(directory: Path, files: Mapping[str, str]) -> None:
    """Refuse files that no digest covers; hidden ones are an editor's or a system's own."""
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        is_hidden = any(part.startswith(".") for part in Path(name).parts)
        if file.is_file() and not is_hidden and name != MANIFEST and name not in files:
            raise InvalidRelease(f"{file}: not in the manifest, expected only its files")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
