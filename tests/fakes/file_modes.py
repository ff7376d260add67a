"""Modes of files, and a umask of the usual kind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mode_of(path: Path) -> str:
    """Return the permissions of a file or folder, such as "0644"."""
    return f"{path.stat().st_mode & 0o7777:04o}"


def modes_in(folder: Path) -> tuple[set[str], set[str]]:
    """Return the modes of all files in a folder, and those of the folder and its folders."""
    paths = [folder, *folder.rglob("*")]
    files = {mode_of(path) for path in paths if path.is_file()}
    return files, {mode_of(path) for path in paths if path.is_dir()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
