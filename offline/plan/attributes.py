"""Attributes of users for the prompts of a night, if the release's reasoner has learnt them."""

import logging
from collections.abc import Mapping

from models.intake.users_table import USERS, Attributes, load_users
from models.reasoner.think import reads_attributes
from models.release.release import Release
from offline.settings import RefreshSettings

logger = logging.getLogger(__name__)


def read_attributes(settings: RefreshSettings, release: Release) -> Mapping[str, Attributes]:
    """Read attributes by user id; none for a reasoner whose prompts had none in training.

    Raises InvalidDataset for an unreadable table.
    """
    if not reads_attributes(release.manifest.metrics):
        return {}
    users = load_users(settings.attributes_dir) if settings.attributes_dir is not None else {}
    if not users:
        logger.warning(
            "%s@%s reads attributes of users and gets none, expected --attributes DATA with %s",
            *(release.name, release.version, USERS),
        )
    return users
