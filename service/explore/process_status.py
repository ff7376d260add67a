"""The footer of the page: release, live night, learner, workers, and users without an item."""

import time

from models.errors import StoreUnavailable
from service.explore.explore_bodies import Learner, LiveNight, Status
from service.explore.patience import patiently
from service.serving import Serving

_SAMPLE = 100  # users whose histories are compared with the catalog
_SAMPLE_S = 60.0  # after which they are read again


class StatusReader:
    """Reads the state of one serving process; a sample of users once a minute."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._sampled_at = -_SAMPLE_S
        self._sampled = (0, 0)

    async def read(self) -> Status:
        serving = self._serving
        num_users, num_without = await self._users_without_item()
        return Status(
            release=serving.engine.label,
            model=serving.engine.model,
            num_items=len(serving.engine.catalog),
            unready=serving.unready,
            night=self._night(),
            night_refusal=serving.manifest.refusal,
            learner=self._learner(),
            workers_alive=await serving.users.count_workers(),
            users_looked_at=num_users,
            users_without_item=num_without,
        )

    def _night(self) -> LiveNight | None:
        manifest = self._serving.manifest.current
        if manifest is None:
            return None
        return LiveNight(
            epoch=manifest.epoch,
            generation=manifest.layers[0].generation,
            created_at=manifest.layers[0].created_at,
            users=manifest.base.users,
            layers=len(manifest.layers),
            canary_percent=manifest.canary.percent if manifest.canary is not None else None,
        )

    def _learner(self) -> Learner | None:
        watch = self._serving.model
        if watch is None or watch.pointer is None:
            return None
        live = self._serving.engine.live
        return Learner(
            epoch=watch.pointer.epoch,
            deltas=live.version.deltas if live is not None else 0,
            written_ms=watch.pointer.written_ms,
            refusal=watch.refusal.why if watch.refusal is not None else None,
        )

    async def _users_without_item(self) -> tuple[int, int]:
        """Return the number of sampled users, and of those with no item of this release.

        Both are 0 while the store is away.
        """
        if time.monotonic() - self._sampled_at < _SAMPLE_S:
            return self._sampled
        store, catalog = self._serving.store, self._serving.engine.catalog
        try:
            found = await patiently(lambda: store.find_users("", limit=_SAMPLE))
            histories = await patiently(lambda: store.read_histories(found.user_ids))
        except StoreUnavailable:
            return (0, 0)
        foreign = [
            user
            for user, history in histories.items()
            if not catalog.rows([event.item_id for event in history])
        ]
        self._sampled_at, self._sampled = time.monotonic(), (len(histories), len(foreign))
        return self._sampled
