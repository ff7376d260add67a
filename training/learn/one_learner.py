"""Locks of a live folder, which end with their process: one learner, one publication at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.lease import Lease, is_held

_LEARNER, _PUBLICATION = "learner.lock", "publication.lock"


def held_alone(folder: Path) -> Lease:
    """Take the lease of a live folder. Raises LeaseTaken at once if another learner has it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Lease.take(folder / _LEARNER)


def is_learning(folder: Path) -> bool:
    """Tell if a learner holds a live folder."""
    return is_held(folder / _LEARNER)


@contextmanager
def one_publication(folder: Path) -> Iterator[None]:
    """Wait until no other process publishes into a live folder, and keep others out."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _PUBLICATION, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
