"""Growth of a learner's catalog by the batches of its item feed.

The first item needs a grower, which embeds the texts of the whole catalog if that was never done. A
thread does it while events are counted.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from training.learn.background import in_background
from training.learn.feed import FeedBatches
from training.learn.new_items import ItemGrower
from training.learn.online_learner import OnlineLearner


class Grown(NamedTuple):
    """Result of some batches."""

    num_items: int
    is_changed: bool  # the catalog, so that services need a new base


class CatalogGrowth:
    """The batches of a feed, and how many of them a learner has applied."""

    def __init__(
        self, feed: FeedBatches, make_grower: Callable[[], ItemGrower], *, every_s: float = 10.0
    ) -> None:
        """Begin without an applied batch.

        Args:
            make_grower: called when the first new item comes.
            every_s: least time between two batches of new items, as each makes a base.
        """
        self.num_applied = 0
        self._feed, self._make_grower, self._every_s = feed, make_grower, every_s
        self._grower: ItemGrower | None = None
        self._growing: Future[ItemGrower] | None = None  # while a thread makes the grower
        self._applied_at = -math.inf  # monotonic clock

    def num_due(self, *, waits: bool = False) -> int:
        """Return how many batches of the feed a slice may end with.

        Batches that come soon after others wait, so that one base is published for all of them.

        waits: for batches and grower, however soon they come; False leaves them for a later slice.
        """
        if not waits and time.monotonic() < self._applied_at + self._every_s:
            return self.num_applied
        if self._grower is None and self._feed.num_batches > self.num_applied:
            self._growing = self._growing or in_background(self._make_grower)
            if not waits and not self._growing.done():
                return self.num_applied
            self._grower = self._growing.result()
        return self._feed.num_batches

    def apply(self, learner: OnlineLearner, up_to: int) -> Grown:
        """Apply the batches up to a number that the learner does not have yet."""
        num_items, is_changed = 0, False
        for number in range(self.num_applied + 1, up_to + 1):
            batch = self._feed.batch(number)
            self._grower = self._grower or self._make_grower()
            is_changed |= self._grower.apply(learner, batch)
            num_items += len(batch)
            self._applied_at = time.monotonic()
        self.num_applied = max(up_to, self.num_applied)
        return Grown(num_items, is_changed)
