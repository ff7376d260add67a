"""A toy release whose recipe says that its reasoner reads evidence."""

import json
import shutil
from pathlib import Path

from models.release.release import Release


def reading_release(release: Release, directory: Path) -> Release:
    """Copy a release; only its recipe differs."""
    shutil.copytree(release.directory, directory)
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["recipe"]["thoughts"] = {"evidence": 1.0}
    file.write_text(json.dumps(manifest))
    return Release.load(directory)
