"""The release of a command: a release directory, or a base of a live folder.

A live folder's pointer moves while nights and workers run. A night keeps the base of its plan; a
worker asks for the newest one between requests.
"""

from pathlib import Path

from models.release.live import LiveFolder, resolve_release
from models.release.release import Release


def load_base(path: Path, label: str | None = None) -> Release:
    """Load a release directory, or a base of a live folder. Raises InvalidRelease.

    label: `name@version` of the base; None for the one that the pointer names. A folder that does
    not hold it any more gives the pointer's base.
    """
    if label is not None:
        folder, base = LiveFolder(path), label.rpartition("@")[2]
        if folder.base_dir(base).is_dir():
            folder.hold(base)
            return Release.load(folder.base_dir(base))
    return Release.load(resolve_release(path))


def reasoner_files(release: Release) -> dict[str, str]:
    """Return the SHA-256 of each file of the reasoner, by name."""
    return {
        name: digest
        for name, digest in release.manifest.files.items()
        if name.startswith("reasoner/")
    }
