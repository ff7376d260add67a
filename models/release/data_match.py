"""Tells if a release was trained on a data set."""

from enum import Enum
from pathlib import Path

from models.catalog.data_content import CONTENT, FILES, content_digest
from models.catalog.dataset import Dataset
from models.intake.data_folder import data_digest
from models.release.release import Release


class Match(Enum):
    """Relation of a release to a data set."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"  # the release is older than the digest, and the files are not those it had


def match(release: Release, data: Path, dataset: Dataset) -> Match:
    """Tell if a release was trained on a data set, which was loaded from `data`."""
    recipe = release.manifest.recipe
    content = recipe.get(CONTENT)
    if content is not None:
        return Match.SAME if content == content_digest(dataset) else Match.OTHER
    return Match.SAME if recipe.get(FILES) == data_digest(data) else Match.UNKNOWN
