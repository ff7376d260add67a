"""Users of whom the release knows no item, as a share of a sample: all of them get one list.

A large share means that the store holds another data set than the release was made for.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.errors import StoreUnavailable
from models.store.contract import ServingStore

PERIOD_S = 60.0  # between two samples
_SAMPLE = 100  # users
_USERS_A_READ = 25  # so that a read ends within the time-out of a service
logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """Some users with a history."""

    users: int
    without_item: int  # none of their items is in the release

    @property
    def share(self) -> float:
        return self.without_item / self.users if self.users else 0.0


class ForeignUsers:
    """Samples the store's users and compares their histories with the catalog."""

    def __init__(self, store: ServingStore, catalog: Callable[[], Catalog]) -> None:
        self._store = store
        self._catalog = catalog
        self.sample = Sample(0, 0)  # the newest one

    @property
    def warning(self) -> str | None:
        """One line if most users have no item of the release."""
        if self.sample.share <= 0.5:
            return None
        return (
            f"{self.sample.without_item} of {self.sample.users} sampled users have no item of this "
            "release: does the store hold another data set? See THINKAHEAD_NAMESPACE"
        )

    async def look(self) -> None:
        """Take a sample, and log the warning when it begins; keep the old one without a store."""
        had_warning = self.warning is not None
        try:
            self.sample = await self._take()
        except StoreUnavailable as exc:
            logger.debug("users are not sampled: %s", exc)
        if self.warning is not None and not had_warning:
            logger.warning("%s", self.warning)

    async def _take(self) -> Sample:
        found = await self._store.find_users("", limit=_SAMPLE)
        catalog, num_without = self._catalog(), 0
        for start in range(0, len(found.user_ids), _USERS_A_READ):
            some = await self._store.read_histories(found.user_ids[start : start + _USERS_A_READ])
            num_without += sum(
                not catalog.rows([event.item_id for event in history]) for history in some.values()
            )
        return Sample(len(found.user_ids), num_without)
