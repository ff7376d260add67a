"""Publication of a learner: what it owes the live folder, as a delta or a whole base.

Knows no events and no slices.
"""

import logging
import time
from pathlib import Path
from typing import Any

from models.errors import ManifestConflict, one_line
from models.release.publish import write_grown_release
from models.release.release import Release
from training.learn.online_learner import OnlineLearner
from training.learn.publisher import Publisher

logger = logging.getLogger(__name__)


class Publication:
    """Publishes one learner's changes once it has caught up with its log."""

    def __init__(
        self,
        learner: OnlineLearner,
        release: Release,
        publisher: Publisher,
        work: Path,
        *,
        most_deltas: int,
    ) -> None:
        """most_deltas: on one base, so that a starting service reads little."""
        self.needs_base = self.owes_weights = False
        self._learner, self._release, self._publisher = learner, release, publisher
        self._work, self._most_deltas = work, most_deltas
        self._has_begun = False
        self._last_failure = ""

    def begin(self) -> None:
        """Publish from now on, first of all the weights."""
        self._has_begun = self.owes_weights = True
        self.needs_base |= not self._publisher.fits(
            self._release, self._learner.catalog, self._config()
        )

    def publish(self, last: str) -> dict[str, Any]:
        """Publish all changes up to an event; return facts of it. A failure is made up for later.

        last: the event's entry in the log.
        """
        if not self._has_begun:
            return {}
        try:
            return self._publish(last)
        except (OSError, ManifestConflict) as exc:
            return self.failed("published", exc)

    def _publish(self, last: str) -> dict[str, Any]:
        """Publish a base, or a delta."""
        learner, publisher = self._learner, self._publisher
        now_ms = int(1000 * time.time())
        self.needs_base |= publisher.num_deltas >= self._most_deltas
        if self.needs_base:
            self._publish_base(last, now_ms)
            return {"published": publisher.name, "watermark": last}
        weights = learner.weights.accepted.arrays() if self.owes_weights else None
        lists = learner.counts.neighbours_of(learner.counts.touched())
        num_bytes = publisher.publish_delta(weights, lists, last, now_ms=now_ms)
        self.owes_weights = False
        learner.counts.settle()
        return {"published": publisher.name, "watermark": last, "bytes": num_bytes}

    def failed(self, what: str, exc: Exception) -> dict[str, Any]:
        """Log a failure, once for as long as it is the same; return it as a fact."""
        line = f"not {what}: {one_line(exc)}"
        if line != self._last_failure:
            logger.error("%s", line)
        self._last_failure = line
        return {"failure": line}

    def _publish_base(self, last: str, now_ms: int) -> None:
        learner, draft = self._learner, self._work / "draft"
        write_grown_release(
            draft,
            self._publisher.source(self._release),
            learner.catalog,
            self._config(),
            learner.weights.accepted.arrays(),
            learner.counts.memory(),
            updates={
                "parent": self._release.version,
                "watermark": last,
                "epoch": self._publisher.next_epoch,
            },
            popularity=learner.popularity,
        )
        self._publisher.publish_base(draft, last, now_ms=now_ms)
        self.needs_base = self.owes_weights = False
        learner.counts.settle()

    def _config(self) -> Any:
        return self._learner.weights.accepted.recommender.config
