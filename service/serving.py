"""State of one serving process, and its life: start, follow store and releases, stop.

Everything that it keeps between requests is bounded:

    connections                     MAX_CONNECTIONS; head and body of a request by their own limits
    requests in work                the concurrency limit, `queue_limit` at the very most
    requests read and not answered  the bound of the flood gate, by criticality
    jobs of the model thread        `queue_limit`
    last good copies of users       `copies_limit`, as are records resolved by an engine
    encoded histories               `history_cache_mb`
    events that wait                `outbox_limit`
    last answers of users           `_REMEMBERED`, for their live recall
    connections to the store        one wire, and MAX_CONNECTIONS of redis-py
    labels of metrics               enums, routes, statuses and settings: no text from callers

Knows nothing of HTTP; `app` puts it behind routes.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from models.catalog.fed_items import FedItem
from models.errors import InvalidRelease, StoreUnavailable
from models.release.live import LiveFolder
from models.store.contract import ServingStore
from models.store.events import Event
from models.store.model_pointer import ModelPointer
from service.follow import ArmPlace, ModelWatch, Outcome, OwnPlace, read_arm, read_own
from service.limits.concurrency import ConcurrencyLimiter
from service.limits.flood_gate import FloodGate
from service.limits.loop_lag import LoopLag
from service.limits.overload_settings import OverloadSettings
from service.recommend.climb import Climber
from service.recommend.engine import Engine, Engines, self_test
from service.recommend.experiments import Experiments
from service.recommend.model_thread import ModelThread, NotDoneError
from service.recommend.pages import Cursors
from service.recommend.pipeline import Pipeline, Policy
from service.recommend.wish_dialogue import Heard, WishDialogue
from service.reload import Renewal, is_live_folder, renew
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.users.breaker import Breaker
from service.users.foreign_users import PERIOD_S, ForeignUsers
from service.users.local_state import ErasureWatch, EventBuffer, LastGoodCache, LiveHits
from service.users.manifest_watch import ManifestWatch
from service.users.reader import Appended, Users

_SELF_TEST_TIMEOUT_S = 60.0
_PROBE_S = 0.1  # between polls of a store that is away or in doubt
_LAST_FLUSH_S = 1.0
_REMEMBERED = 20_000  # users with an answer that their next event will judge
_MODEL_LOOKS = 2  # at the model pointer for each one at the manifest: it is to take effect in 1 s
logger = logging.getLogger(__name__)


class Serving:
    """State of one serving process."""

    def __init__(
        self,
        settings: ServiceSettings,
        engine: Engine,
        store: ServingStore,
        arms: Mapping[Path, Engine],
    ) -> None:
        """arms: engines of the releases that arms of experiments choose."""
        space = engine.catalog.space
        self.metrics = Metrics()
        self.cursors = Cursors(
            settings.cursor_secret.get_secret_value() if settings.cursor_secret else None
        )
        self.draining = asyncio.Event()  # set by a signal handler, which may take no lock
        self._trouble: str | None = "the self-test has not finished"
        self._settings = settings
        self._store = store
        self._poll_wanted = asyncio.Event()
        self._breaker = Breaker(on_doubt=self._poll_wanted.set)
        self._cache = LastGoodCache(settings.copies_limit)
        self._buffer = EventBuffer(settings.outbox_limit)
        self._thread = ModelThread(limit=settings.queue_limit)
        overload = OverloadSettings()
        budget_s = settings.request_budget_ms / 1000
        self.gate = FloodGate(
            overload,
            budget_s=budget_s,
            limiter=ConcurrencyLimiter(overload, budget_s=budget_s, highest=settings.queue_limit),
            lag=LoopLag(overload),
        )
        self.metrics.watch_refusals(self.gate.num_rejected)
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._appending: set[asyncio.Task[dict[str, list[Appended]]]] = set()  # one a request
        self._erasures = ErasureWatch(store, cache=self._cache, buffer=self._buffer)
        self._users = Users(
            store,
            space=space,
            breaker=self._breaker,
            cache=self._cache,
            buffer=self._buffer,
            erasures=self._erasures,
        )
        self.manifest = ManifestWatch(
            store, fingerprint=space.fingerprint, breaker=self._breaker, metrics=self.metrics
        )
        self._engines = Engines(engine, arms)
        self.foreign_users = ForeignUsers(store, lambda: self.engine.catalog)
        self._hits = LiveHits(_REMEMBERED)
        self.metrics.watch_hits(self._hits.num_judged, self._hits.num_hits)
        self.model = self._watch_own(settings.live_dir)
        self._arm_models = {path: self._watch_arm(path) for path in arms if is_live_folder(path)}
        self.pipeline = Pipeline(
            self._engines,
            Policy(
                budget_s=budget_s,
                mode=settings.mode,
                num_own_prefixes=settings.online_prefixes,
                record_max_age_s=settings.record_max_age_hours * 3600,
                wish_lasts_s=settings.wish_minutes * 60,
                wish_strength=settings.wish_nats,
            ),
            users=self._users,
            manifest=self.manifest,
            climber=Climber(self._thread),
            gate=self.gate,
            experiments=Experiments(settings.experiments, held_share=settings.rung_share),
            metrics=self.metrics,
            hits=self._hits,
        )
        self._wishes = WishDialogue(
            self._users, self._engines, self._hits, lasts_s=settings.wish_minutes * 60
        )
        self._watch_gauges()

    @property
    def engine(self) -> Engine:
        return self._engines.own

    @property
    def engines(self) -> Engines:
        return self._engines

    @property
    def settings(self) -> ServiceSettings:
        return self._settings

    @property
    def users(self) -> Users:
        return self._users

    @property
    def model_thread(self) -> ModelThread:
        return self._thread

    @property
    def _pointer(self) -> ModelPointer | None:
        return self.model.pointer if self.model is not None else None

    @property
    def unready(self) -> str | None:
        """Reason why no traffic should be sent to this process; None if it should."""
        return "the process is about to end" if self.draining.is_set() else self._trouble

    async def start(self) -> None:
        """Poll the store once and start the background tasks; one of them makes the process ready.

        Returns before the process is ready: see `unready`.
        """
        self._loop = asyncio.get_running_loop()
        self.gate.lag.start(self.gate.beat)
        self._thread.start()
        if await self.manifest.poll():
            with suppress(StoreUnavailable):
                await self._erasures.poll()
        self._tasks = [
            asyncio.create_task(self._become_ready()),
            asyncio.create_task(self._follow_store()),
            asyncio.create_task(self._follow_models()),
            asyncio.create_task(self._reload_when_wanted()),
            asyncio.create_task(self._sample_users()),
        ]

    async def until_tested(self) -> None:
        """Return when the self-test has passed. Raises InvalidRelease if it failed."""
        await self._tasks[0]
        if self._trouble is not None:
            raise InvalidRelease(self._trouble)

    async def stop(self) -> None:
        """Send the buffered events, then release everything. Call it after the last request."""
        self._stopping.set()  # no task is cancelled: each ends in order
        self._reload_wanted.set()
        self._poll_wanted.set()
        await asyncio.gather(*self._tasks)
        self.gate.lag.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FLUSH_S):
                await self._users.flush()
        if num_lost := len(self._buffer):
            logger.error("%d events are lost: the store is away", num_lost)
        await asyncio.to_thread(self._thread.stop)
        await self._store.close()

    def reload_soon(self) -> None:
        """Read the release directories again soon. May be called from a signal handler."""
        if self._loop is not None:  # before `start` they are being read for the first time
            self._loop.call_soon_threadsafe(self._reload_wanted.set)

    async def reload(self) -> Outcome:
        """Read the release directories and pointers now.

        Return the outcome for the service's own release. The release of each arm is read on its
        own: a refused one does not affect the others.
        """
        async with self._reloading:
            outcome = await self._reload_own()
            for path, arm in self._engines.arms.items():
                if path in self._arm_models:
                    self.metrics.count_reload(await self._arm_models[path].look(is_forced=True))
                else:
                    engine = (await self._renew(arm, path)).engine
                    ArmPlace(self._engines, path).take(engine, None)
        return outcome

    async def _reload_own(self) -> Outcome:
        if self.model is not None:
            outcome = await self.model.look(is_forced=True)
            if self.model.pointer is not None or self._settings.release_dir is None:
                self.metrics.count_reload(outcome)
                return outcome
        assert self._settings.release_dir is not None
        renewal = await self._renew(self.engine, self._settings.release_dir)
        if renewal.outcome == "taken":
            self._engines.own, self._trouble = renewal.engine, None
        return renewal.outcome

    def users_with_records(self, limit: int) -> list[str]:
        """Return up to `limit` recent users of this process that had a record."""
        return self._cache.with_records(limit)

    def drain(self) -> None:
        """Become unready, and close connections behind their answers.

        May be called from a signal handler.
        """
        self.draining.set()

    async def append(
        self, events: Mapping[str, Sequence[Event]], *, came_at: float | None = None
    ) -> dict[str, list[Appended]]:
        """Append events by user, and return the result of each event in order.

        The appending goes on when the client disconnects. Events that the store does not take in
        time wait in this process. came_at: arrival of the request on the monotonic clock, where
        its time begins. Raises StoreUnavailable when the event buffer is full, too.
        """
        appending = asyncio.create_task(self._append(events, came_at=came_at))
        self._appending.add(appending)
        appending.add_done_callback(self._appending.discard)
        return await asyncio.shield(appending)

    async def _append(
        self, events: Mapping[str, Sequence[Event]], *, came_at: float | None
    ) -> dict[str, list[Appended]]:
        waited_s = 0.0 if came_at is None else time.monotonic() - came_at
        budget_s = self._settings.request_budget_ms / 1000
        appended = await self._users.append(
            events, patience_s=budget_s - waited_s - self.gate.settings.answer_reserve_s
        )
        for user_id, of_user in appended.items():
            pairs = list(zip(events[user_id], of_user, strict=True))
            for _, each in pairs:
                self.metrics.count_event(each.reason)
            new = [event for event, each in pairs if each.new is not False]
            self._hits.judge(user_id, new, now_s=time.time())
        return appended

    def knows_item(self, item_id: str) -> bool:
        """Tell if the item is in the catalog of this process's own release."""
        return self.engine.catalog.row(item_id) is not None

    async def offer_items(self, items: Sequence[FedItem]) -> None:
        """Put items into the feed. Raises StoreUnavailable."""
        await self._users.offer_items(items)

    async def request_thinking(self, user_id: str, instruction: str | None) -> int | None:
        """Return the number of workers that can do it; None: unknown. Raises StoreUnavailable."""
        await self._users.request_thinking(user_id, instruction)
        return await self._users.count_workers()

    async def hear_wish(
        self, user_id: str, text: str | None, *, item_id: str | None = None, forgets: bool = False
    ) -> Heard | None:
        """Take a turn about a user's wish, which counts from the next answer on.

        Returns None without a text. Raises StoreUnavailable.

        Args:
            item_id: the item that "this" and "that" in the text mean.
            forgets: end the earlier wish first.
        """
        if forgets:
            await self._wishes.forget(user_id)
        if not text or text.isspace():
            return None
        return await self._wishes.hear(user_id, text, item_id=item_id)

    async def request_erasure(self, user_id: str) -> int | None:
        """Return the number of workers that can do it; None: unknown. Raises StoreUnavailable."""
        await self._users.request_erasure(user_id)
        return await self._users.count_workers()

    async def _renew(self, current: Engine, release_dir: Path) -> Renewal:
        renewal = await asyncio.to_thread(renew, self._settings, current, release_dir)
        self.metrics.count_reload(renewal.outcome)
        return renewal

    async def _become_ready(self) -> None:
        deadline = time.monotonic() + _SELF_TEST_TIMEOUT_S
        try:
            await self._thread.run(lambda: self_test(self.engine), deadline=deadline)
        except NotDoneError as exc:
            self._trouble = f"the self-test failed: {exc}"
            logger.critical("not ready: %s", self._trouble)
        else:
            self._trouble = None
            logger.info("ready with %s", self.engine.label)

    async def _follow_store(self) -> None:
        """Poll the store at intervals: shorter ones while it is in doubt, and when doubt begins."""
        poll_s = self._settings.manifest_poll_ms / 1000
        while not self._stopping.is_set():
            self._poll_wanted.clear()
            try:
                if await self.manifest.poll():
                    with suppress(StoreUnavailable):
                        await self._erasures.poll()
                    await self._users.flush()
            except Exception:
                logger.exception("polling the store failed")
            pause_s = min(poll_s, _PROBE_S) if self._breaker.is_in_doubt else poll_s
            with suppress(TimeoutError):
                await asyncio.wait_for(self._poll_wanted.wait(), pause_s)

    async def _follow_models(self) -> None:
        """Look at the pointers of live folders at intervals."""
        watches = [*([self.model] if self.model is not None else []), *self._arm_models.values()]
        pause_s = self._settings.manifest_poll_ms / 1000 / _MODEL_LOOKS
        while watches and not self._stopping.is_set():
            async with self._reloading:
                for watch in watches:
                    await self._look(watch)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _sample_users(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.foreign_users.look()
            except Exception:
                logger.exception("sampling the users failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PERIOD_S)

    async def _look(self, watch: ModelWatch) -> None:
        before = self.engine
        try:
            await watch.look()
        except Exception:
            logger.exception("looking at a model pointer failed")
        if not self.engine.shares_model(before):  # a new model has passed its self-test
            self._trouble = None

    def _watch_own(self, live_dir: Path | None) -> ModelWatch | None:
        if live_dir is None:
            return None
        folder = LiveFolder(live_dir)
        return ModelWatch(
            self._settings,
            folder,
            read=read_own(self._store, folder),
            place=OwnPlace(self._engines),
            metrics=self.metrics,
        )

    def _watch_arm(self, path: Path) -> ModelWatch:
        folder = LiveFolder(path)
        return ModelWatch(
            self._settings,
            folder,
            read=read_arm(folder),
            place=ArmPlace(self._engines, path),
            metrics=self.metrics,
        )

    async def _reload_when_wanted(self) -> None:
        while await self._reload_wanted.wait() and not self._stopping.is_set():
            self._reload_wanted.clear()
            await self.reload()

    def _watch_gauges(self) -> None:
        watch = self.metrics.watch
        watch(
            "breaker_open",
            "1 while the store is not asked.",
            lambda: self._breaker.is_open,
            merge="max",
        )
        watch("queue_waiting", "Jobs that wait for the model.", lambda: self._thread.num_waiting)
        watch("outbox_events", "Events that wait for the store.", lambda: len(self._buffer))
        watch(
            "erasures_waiting",
            "Users that wait to be erased.",
            lambda: len(self._erasures),
            merge="max",
        )
        watch("user_copies", "Users with a last good copy.", lambda: len(self._cache))
        watch("concurrency_limit", "Requests that may be in work.", lambda: self.gate.limiter.limit)
        watch("in_work", "Requests in work.", lambda: self.gate.limiter.num_inside)
        watch(
            "saturation",
            "Requests in work as a share of the limit; from 1 on others are shed.",
            lambda: self.gate.limiter.saturation,
            merge="max",
        )
        watch(
            "loop_lag_seconds",
            "Lag of the event loop, in seconds.",
            lambda: self.gate.lag.seconds,
            merge="max",
        )
        self.metrics.watch_models(self._engines.in_use)
        watch(
            "model_epoch",
            "Epoch of the model pointer in use; 0 before the first.",
            lambda: self._pointer.epoch if self._pointer is not None else 0,
            merge="min",
        )
        watch(
            "model_deltas",
            "Deltas that the model in use has over its base.",
            lambda: self.engine.live.version.deltas if self.engine.live is not None else 0,
            merge="min",
        )
        watch(
            "model_lag_seconds",
            "Age of the newest event that the model in use has learnt, in seconds; 0 without one.",
            lambda: _age_s(_entry_ms(self.engine.live.watermark) if self.engine.live else 0),
            merge="max",
        )
        watch(
            "model_age_seconds",
            "Age of the model pointer in use, in seconds; 0 before the first.",
            lambda: _age_s(self._pointer.written_ms if self._pointer is not None else 0),
            merge="max",
        )
        watch(
            "model_refused",
            "1 while a model pointer is refused and the version before it serves.",
            lambda: self.model is not None and self.model.refusal is not None,
            merge="max",
        )
        watch(
            "users_without_item",
            "Share of sampled users of whom the release knows no item.",
            lambda: self.foreign_users.sample.share,
            merge="max",
        )
        watch(
            "ready",
            "1 once the self-test has passed.",
            lambda: self.unready is None,
            merge="min",
        )


def _age_s(unix_ms: int) -> float:
    """Return the seconds since a moment; 0 for no moment (0) and one in the future."""
    return max(time.time() - unix_ms / 1000, 0.0) if unix_ms else 0.0


def _entry_ms(entry: str) -> int:
    """Return the unix milliseconds of an entry of the event log."""
    return int(entry.partition("-")[0])
