"""One learner a live folder: a lease that ends with its process."""

from pathlib import Path

from models.lease import Lease

_FILE = "learner.lock"


def held_alone(folder: Path) -> Lease:
    """Take the lease of a live folder. Raises LeaseTaken at once if another learner has it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Lease.take(folder / _FILE)
