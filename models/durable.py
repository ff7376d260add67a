"""Files that appear complete or not at all, and survive a power cut."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    write_durably(file, text.encode())


def write_durably(
    file: Path, content: bytes | memoryview, *, guard: Callable[[], None] | None = None
) -> None:
    """Write a file so that it appears complete, after it was synced to disk.

    guard: called before the file gets its name; it raises to prevent that.

    Raises OSError with the file's name, after removing the draft.
    """
    draft = file.with_name(file.name + ".new")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if guard is not None:
            guard()
        draft.replace(file)
        sync_folder(file.parent)
    except BaseException as exc:
        draft.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            exc.filename = exc.filename or str(file)
        raise


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that created, renamed and removed files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Path) -> None:
    """Sync the content of a file that another function wrote."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file and sync the copy."""
    shutil.copyfile(source, target)
    sync_file(target)


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file that nobody changes in place, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        copy_durably(source, target)
