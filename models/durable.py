"""Files that appear complete or not at all, and survive a power cut; and who may read them.

Files about users are private to their owner. Published files can be read by the user of another
process, as far as the umask allows.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600  # mode of a file about users
_SHARED = 0o666  # mode of every other file, before the umask


def write_text(file: Path, text: str, *, mode: int = _SHARED) -> None:
    write_durably(file, text.encode(), mode=mode)


def write_durably(
    file: Path,
    content: bytes | memoryview,
    *,
    guard: Callable[[], None] | None = None,
    mode: int = _SHARED,
) -> None:
    """Write a file so that it appears complete, after it was synced to disk.

    guard: called before the file gets its name; it raises to prevent that.
    mode: of the file, before the umask; `PRIVATE` for a file about users.

    Raises OSError with the file's name, after removing the draft.
    """
    draft = file.with_name(file.name + ".new")
    try:
        with open_new(draft, mode) as stream:
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


def open_new(file: Path, mode: int) -> BinaryIO:
    """Open a new file for writing; a file that a killed process left behind is removed."""
    file.unlink(missing_ok=True)
    return open(file, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can look into, unless it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def open_to_readers(folder: Path) -> None:
    """Give all files and folders in a new folder the mode that the umask gave the folder itself.

    safetensors 0.8 writes its files with mode 0600, so another user could not read a release.
    """
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        with suppress(PermissionError):  # a linked file of another owner
            path.chmod(mode if path.is_dir() else mode & 0o666)


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
