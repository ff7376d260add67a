"""Everything that one serving process holds, and its life: start, keep up, stop.

Knows nothing of HTTP; `app` puts it behind routes.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from models.events import Event
from models.store import UserStore
from service.breaker import Breaker
from service.copies import Copies
from service.engine import Engine, self_test
from service.experiments import Experiments
from service.logs import user_hash
from service.manifest import ManifestWatch
from service.metrics import Metrics
from service.outbox import Outbox
from service.pipeline import Pipeline, Query, Served
from service.reload import renew
from service.settings import ServiceSettings
from service.users import Appended, Users
from service.worker import NotDoneError, Worker

_SELF_TEST_TIMEOUT_S = 60.0
_RETRY_S = 0.2  # between looks at a store that is away
logger = logging.getLogger(__name__)
exposure_log = logging.getLogger("service.exposures")  # `bench ab` reads it


class Serving:
    def __init__(
        self,
        settings: ServiceSettings,
        engine: Engine,
        store: UserStore,
        arms: Mapping[Path, Engine],
    ) -> None:
        """arms: engines of the releases that arms of experiments choose."""
        space = engine.catalog.space
        self.metrics = Metrics()
        self.unready: str | None = "the self-test has not finished"
        self._settings = settings
        self._store = store
        self._breaker = Breaker()
        self._copies = Copies(settings.copies_limit)
        self._outbox = Outbox(settings.outbox_limit)
        self._worker = Worker(limit=settings.queue_limit)
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._users = Users(
            store, space=space, breaker=self._breaker, copies=self._copies, outbox=self._outbox
        )
        self.manifest = ManifestWatch(
            store, fingerprint=space.fingerprint, breaker=self._breaker, metrics=self.metrics
        )
        self._pipeline = Pipeline(
            engine,
            users=self._users,
            manifest=self.manifest,
            worker=self._worker,
            metrics=self.metrics,
            record_max_age_s=settings.record_max_age_hours * 3600,
            num_own_prefixes=settings.online_prefixes,
            mode=settings.mode,
            experiments=Experiments(settings.experiments),
            arms=arms,
        )
        self._watch_gauges()

    @property
    def engine(self) -> Engine:
        return self._pipeline.engine

    async def start(self) -> None:
        """Returns at once but for one look at the store; readiness follows by itself."""
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        await self.manifest.poll()
        self._tasks = [
            asyncio.create_task(self._become_ready()),
            asyncio.create_task(self._keep_up()),
            asyncio.create_task(self._reload_when_wanted()),
        ]

    async def stop(self) -> None:
        """After the last request: hand over what waits, then let go of everything."""
        self._stopping.set()  # no cancelling: whatever is under way ends in order
        self._reload_wanted.set()
        await asyncio.gather(*self._tasks)
        if num_lost := len(self._outbox) - await self._users.flush():
            logger.error("%d events are lost: the store is away", num_lost)
        await asyncio.to_thread(self._worker.stop)
        await self._store.close()

    async def recommend(self, query: Query, *, timeout_ms: int | None = None) -> Served:
        """`timeout_ms`: what the caller has; it only ever shortens the configured budget."""
        budget_ms = self._settings.request_budget_ms
        if timeout_ms is not None:
            budget_ms = min(budget_ms, timeout_ms)
        served = await self._pipeline.recommend(query, deadline=time.monotonic() + budget_ms / 1000)
        self._expose(query.user_id, served)
        return served

    def reload_soon(self) -> None:
        """Look at the release directory again. May be called from a signal handler."""
        if self._loop is not None:  # before that it is being read for the first time
            self._loop.call_soon_threadsafe(self._reload_wanted.set)

    async def reload(self) -> Literal["taken", "unchanged", "refused"]:
        """Look at the release directory now; what came of it."""
        async with self._reloading:
            renewal = await asyncio.to_thread(renew, self._settings, self.engine)
            self.metrics.reload(renewal.outcome)
            if renewal.outcome == "taken":
                self._pipeline.engine, self.unready = renewal.engine, None
        return renewal.outcome

    def users_with_records(self, limit: int) -> list[str]:
        """Users whom this process has seen lately and who had a record then."""
        return self._copies.with_records(limit)

    async def append(self, user_id: str, event: Event) -> Appended:
        appended = await self._users.append(user_id, event)
        self.metrics.event(stored=appended.stored)
        return appended

    def _expose(self, user_id: str, served: Served) -> None:
        """Counts and logs what an experiment needs to know: whom it showed what, in which arm."""
        for experiment, arm, share in served.exposures:
            self.metrics.exposure(experiment, arm)
            fields = {
                "experiment": experiment,
                "arm": arm,
                "share": share,
                "user": user_hash(user_id),
                "at_ms": time.time_ns() // 1_000_000,
                "source": served.source,
                "generation": served.record.generation if served.record else None,
                "items": [served.engine.catalog.item_ids[pick.row] for pick in served.picks],
            }
            exposure_log.info("exposure", extra={"fields": fields})

    async def _become_ready(self) -> None:
        deadline = time.monotonic() + _SELF_TEST_TIMEOUT_S
        try:
            await self._worker.run(lambda: self_test(self.engine), deadline=deadline)
        except NotDoneError as exc:
            self.unready = f"the self-test failed: {exc}"
            logger.critical("not ready: %s", self.unready)
        else:
            self.unready = None
            logger.info("ready with %s", self.engine.label)

    async def _keep_up(self) -> None:
        poll_s = self._settings.manifest_poll_ms / 1000
        stopping = asyncio.ensure_future(self._stopping.wait())
        while not self._stopping.is_set():
            try:
                is_reachable = await self.manifest.poll()
                if is_reachable:
                    await self._users.flush()
            except Exception:
                logger.exception("keeping up with the store failed")
                is_reachable = False
            pause_s = poll_s if is_reachable else min(poll_s, _RETRY_S)
            await asyncio.wait([stopping], timeout=pause_s)
        stopping.cancel()

    async def _reload_when_wanted(self) -> None:
        while await self._reload_wanted.wait() and not self._stopping.is_set():
            self._reload_wanted.clear()
            await self.reload()

    def _watch_gauges(self) -> None:
        watch = self.metrics.watch
        watch("breaker_open", "1 while the store is not asked.", lambda: self._breaker.is_open)
        watch("queue_waiting", "Finishes in the queue.", lambda: self._worker.num_waiting)
        watch("outbox_events", "Events that wait for the store.", lambda: len(self._outbox))
        watch("user_copies", "Users with a last good copy.", lambda: len(self._copies))
        watch("ready", "1 once the self-test has passed.", lambda: self.unready is None)
