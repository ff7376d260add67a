"""Keep a worker at the base that the pointer of a live folder names.

Between its requests the worker takes over new items and, if it changed, the new reasoner. A base
that does not load leaves the worker as it is. Knows nothing of requests.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models.errors import InvalidRelease, ReleaseMismatch
from models.release.live import resolve_release
from models.release.release import Release
from offline.live.worker import Worker
from offline.think.micro_batch import Think, ThinksAhead

logger = logging.getLogger(__name__)


class BaseFollower:
    """Follows a live folder; a release directory never changes for it."""

    def __init__(self, path: Path, load: Callable[[Release], Think]) -> None:
        """load: loads the engine of a base."""
        self._path = path
        self._load = load
        self._refused: str | None = None  # the last error, so that it is logged once

    def look(self, worker: Worker) -> Worker:
        """Return the worker of the base that the pointer names, `worker` itself if it is that."""
        try:
            directory = resolve_release(self._path)
            if directory in (worker.release.directory, self._path):
                return worker
            followed = self._renew(worker, Release.load(directory))
        except InvalidRelease as exc:
            if str(exc) != self._refused:
                logger.error("the worker stays at %s: %s", worker.release.version, exc)
            self._refused = str(exc)
            return worker
        self._refused = None
        logger.warning("the worker goes on with %s", followed.release.version)
        return followed

    def _renew(self, worker: Worker, release: Release) -> Worker:
        found, expected = release.space.fingerprint, worker.release.space.fingerprint
        if found != expected:
            raise ReleaseMismatch(
                f"{release.directory}: SID space fingerprint {found:016x}, expected {expected:016x}"
            )
        think = self._load(release)
        if isinstance(worker.think, ThinksAhead):
            worker.think.close()
        return replace(worker, release=release, think=think)
