"""Digest of what a data set says: items, users, order and times.

It is the same for every layout of the same data in files. Texts of items, types and values do not
count.
"""

import hashlib

from models.catalog.dataset import Dataset

CONTENT = "data_content"  # in the recipe of a release's manifest
FILES = "data_sha256"  # the same for the digest of the files, which older releases have alone


def content_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of the content."""
    digest = hashlib.sha256("\n".join(sorted(dataset.items)).encode())
    for user_id, history in sorted(dataset.histories.items()):
        times = [event.timestamp if dataset.has_times else 0 for event in history]
        events = (f"{event.item_id}\t{at}" for event, at in zip(history, times, strict=True))
        digest.update("\n".join(("", "", user_id, *events)).encode())
    return digest.hexdigest()
