"""The footer of the page: release, live night, learner, workers, and users without an item."""

from models.errors import StoreUnavailable
from models.store.contract import UserStore
from service.explore.explore_bodies import Gates, Learner, LiveNight, Status
from service.explore.patience import patiently
from service.serving import Serving


class StatusReader:
    """Reads the state of one serving process."""

    def __init__(self, serving: Serving, store: UserStore) -> None:
        self._serving = serving
        self._store = store

    async def read(self) -> Status:
        serving = self._serving
        sample = serving.foreign_users.sample
        return Status(
            release=serving.engine.label,
            model=serving.engine.model,
            num_items=len(serving.engine.catalog),
            unready=serving.unready,
            night=self._night(),
            night_refusal=serving.manifest.refusal,
            gates=await self._gates(),
            learner=self._learner(),
            workers_alive=await serving.users.count_workers(),
            users_looked_at=sample.users,
            users_without_item=sample.without_item,
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

    async def _gates(self) -> Gates | None:
        manifest = self._serving.manifest.current
        try:
            report = await patiently(self._store.read_gates)
        except StoreUnavailable:
            return None
        if manifest is None or report is None or report.generation not in manifest.generations:
            return None
        return Gates(verdicts=list(report.gates), forced=report.forced)

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
