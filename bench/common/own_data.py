"""Load the data of a release, and refuse others: ranks on them mean nothing."""

import argparse
import logging

from models.catalog.dataset import Dataset, load_dataset
from models.errors import InvalidSettings
from models.release.data_match import Match, match
from models.release.release import Release

logger = logging.getLogger(__name__)


def load_own_data(options: argparse.Namespace, release: Release) -> Dataset:
    """Load `options.data`.

    Raises InvalidSettings if the release was trained on other data, unless `options.other_data`.
    """
    dataset = load_dataset(options.data)
    found = Match.SAME if options.other_data else match(release, options.data, dataset)
    if found is Match.OTHER:
        raise InvalidSettings(
            f"--data {options.data}: {release.directory} was trained on other data (the digest in "
            "its manifest differs); --other-data measures it all the same"
        )
    if found is Match.UNKNOWN:
        logger.warning(
            "%s has no digest of its data: not checked if %s is it", release.directory, options.data
        )
    return dataset
