"""One learner a live folder: a lock that ends with its process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import LeaseTaken

_FILE = "learner.lock"


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a live folder. Raises LeaseTaken at once if another learner has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise LeaseTaken(f"{folder / _FILE}: another learner is running, this one stops") from exc
    finally:
        os.close(descriptor)
