"""Answer one request for recommendations, inside its deadline.

Reads the user, climbs the ladder on the model thread, fills up, explains and counts. A failure on
the way costs a rung, never the answer. Knows nothing of HTTP.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import orjson

from models.store.events import Event, merge_events
from models.store.records import PrefixRecord
from models.store.wish_turns import held_turns
from service.limits.concurrency import Admission
from service.limits.flood_gate import FloodGate
from service.recommend.climb import Climbed, Climber
from service.recommend.engine import Engine, Engines, Role
from service.recommend.experiments import Choice, Experiments, Exposure
from service.recommend.ladder import RECORDED, Pick, Plan, Wanted, plan_popular, plan_rungs
from service.recommend.pages import MAX_SHOWN, Cursor, begin_cursor, digest, pin_layers, pin_view
from service.recommend.reasons import Asked, ItemReason
from service.recommend.wishes import HeldWish
from service.sources import Criticality, Mode, Reason, Source
from service.telemetry.logs import user_hash
from service.telemetry.metrics import Metrics
from service.users.local_state import LiveHits
from service.users.manifest_watch import ManifestWatch
from service.users.reader import Users, UserView

STAGES = ("store", "queue", "encode", "finish", "total")  # as the API names them
_NOBODY = UserView((), None)
_BY_FILTER = (Reason.SHORT, Reason.EMPTY)  # reasons that a filter explains, so no faults
exposure_log = logging.getLogger("service.exposures")  # `bench ab` reads it


@dataclass(frozen=True)
class Query:
    """One request for recommendations."""

    user_id: str | None  # None: a history from the caller, of no stored user
    num_items: int
    exclude_seen: bool = True  # leave out the items of the history
    explain: bool = False  # add the reasoning texts and the reasons of the items
    exclude: tuple[str, ...] = ()  # item ids to leave out; unknown ids are ignored
    category: str | None = None  # text of any level of a category path
    mode: Mode | None = None  # None: as configured
    criticality: Criticality = Criticality.DEFAULT
    events: tuple[Event, ...] = ()  # from the caller, added to the stored history
    after: Cursor | None = None  # the end of the page before; None for a first page
    choice: Choice | None = None  # for a person who compares; None: the user's own arms

    @cached_property
    def digest(self) -> bytes:
        """Digest of the fields that all pages of one list have in common."""
        items = [event.item_id for event in self.events]
        filters = (self.exclude_seen, sorted(self.exclude), self.category, self.mode)
        return digest(orjson.dumps((self.user_id, items, *filters)))


class Served(NamedTuple):
    """Answer to one query, before it is written as JSON."""

    engine: Engine
    picks: tuple[Pick, ...]
    source: Source
    is_degraded: bool  # a fault or lack of time kept the best rung from answering
    is_held: bool  # the user is held at a lower rung, which is no fault
    record: PrefixRecord | None  # behind the answer; None unless source is `personal` or `stale`
    record_age_s: float
    thoughts: tuple[str, ...] | None  # texts by path number; None unless the query asks for them
    seconds: dict[str, float]  # by stage, as in STAGES
    exposures: tuple[Exposure, ...] = ()  # the arms that shaped the answer
    following: Cursor | None = None  # the end of this page; None for the last page
    num_before: int = 0  # items on the pages before
    role: Role = "own"  # of the engine
    reasons: tuple[ItemReason, ...] | None = None  # None: not asked for, or no time for them
    wish: HeldWish | None = None  # that the answer obeys
    wish_until: int = 0  # unix seconds; 0 without a wish


@dataclass(frozen=True)
class Policy:
    """Settings of every answer."""

    budget_s: float  # from the arrival of a request to its answer
    mode: Mode  # of queries that name none
    num_own_prefixes: int  # that the online model takes of its own
    record_max_age_s: float  # an older record is `stale`
    wish_lasts_s: float = 1800.0  # behind its last turn
    wish_strength: float = 0.0  # nats that a wish adds to an item that fits wholly


class Pipeline:
    """Answers queries. Each query keeps the engine that it began with."""

    def __init__(
        self,
        engines: Engines,
        policy: Policy,
        *,
        users: Users,
        manifest: ManifestWatch,
        climber: Climber,
        gate: FloodGate,
        experiments: Experiments,
        metrics: Metrics,
        hits: LiveHits,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engines = engines
        self._policy = policy
        self._users = users
        self._manifest = manifest
        self._climber = climber
        self._gate = gate
        self._experiments = experiments
        self._metrics = metrics
        self._hits = hits
        self._monotonic = monotonic
        self._wall = wall

    async def recommend(
        self, query: Query, *, timeout_ms: int | None = None, came_at: float | None = None
    ) -> Served:
        """Answer a query in time.

        timeout_ms: the caller's time; it shortens the configured budget, never lengthens it.
        came_at: arrival of the request on the monotonic clock, where its time begins; None: now.
        Above the concurrency limit the lowest rung answers, without the store and the model.
        Raises CursorGone for a list of a release or generation that is no longer served.
        """
        budget_s = self._policy.budget_s
        if timeout_ms is not None:
            budget_s = min(budget_s, timeout_ms / 1000)
        came_at = self._monotonic() if came_at is None else came_at
        served = await self._answer_within_limit(
            query, deadline=came_at + budget_s, came_at=came_at
        )
        if served.exposures:
            self._log_exposures(query.user_id, served)
        return served

    def assign(
        self, user_id: str | None, asked: Mode | None = None, *, is_shed: bool = False
    ) -> Choice:
        """Return how this user is served."""
        return self._experiments.assign(user_id, asked, is_shed=is_shed)

    async def _answer_within_limit(
        self, query: Query, *, deadline: float, came_at: float
    ) -> Served:
        if self._gate.limiter.admit(query.criticality) == Admission.POPULAR:
            return await self._answer(query, deadline=deadline, is_shed=True)
        sample_s: float | None = None
        try:
            served = await self._answer(query, deadline=deadline, is_shed=False)
            sample_s = self._queued_s(served, came_at)
        finally:
            self._gate.limiter.release(sample_s, now=self._monotonic())
        return served

    def _queued_s(self, served: Served, came_at: float) -> float:
        """Return the seconds of queueing and work: all but the store's, plus the event loop's lag.

        A late event loop reads the store's reply late, so its lag is not counted as store time.
        """
        lag_s = self._gate.lag.seconds
        store_s = max(served.seconds["store"] - lag_s, 0.0)
        return self._monotonic() - came_at - store_s + lag_s

    async def _answer(self, query: Query, *, deadline: float, is_shed: bool) -> Served:
        began_at, query_digest = self._monotonic(), query.digest
        choice = query.choice or self._experiments.assign(
            query.user_id, query.mode, is_shed=is_shed
        )
        query = replace(query, mode=choice.mode) if choice.mode is not None else query
        engine, role = self._engines.of(choice.release, query.user_id)
        in_time = deadline - self._gate.settings.answer_reserve_s
        if query.after is not None:
            query.after.check_release(engine.digest)
        view = _NOBODY if is_shed else await self._read(query, choice, deadline=in_time)
        store_s = self._monotonic() - began_at
        age_s = self._wall() - view.record.created_at if view.record else 0.0
        plan = plan_popular(Reason.OVERLOAD)
        if not is_shed:
            plan = plan_rungs(
                view if query.after is None else pin_view(view, query.after),
                engine,
                is_over_age=age_s > self._policy.record_max_age_s,
                held_at=choice.held_at,
            )
        wanted = self._wanted(query, view, plan, engine)
        climbed = await self._climber.climb(plan, engine, wanted, deadline=in_time)
        record = plan.record if climbed.source in RECORDED else None
        thoughts, reasons = None, None
        found_at = read_at = self._monotonic()
        if query.explain:
            thoughts = await self._explain(query, record, deadline=in_time)
            read_at = self._monotonic()
            asked = Asked(engine, plan, climbed.picks, thoughts, wanted)
            reasons = await self._climber.tell_reasons(asked, deadline=in_time)
        ended_at = self._monotonic()
        served = Served(
            engine=engine,
            picks=climbed.picks,
            source=climbed.source,
            is_degraded=plan.is_impaired
            or _is_fault(climbed, plan, query, has_wish=wanted.wish is not None),
            is_held=choice.held_at is not None,
            record=record,
            record_age_s=age_s,
            thoughts=thoughts,
            reasons=reasons,
            seconds=_stage_seconds(
                climbed,
                store_s=store_s + read_at - found_at,
                reasons_s=ended_at - read_at if query.explain else 0.0,
                total_s=ended_at - began_at,
            ),
            exposures=choice.exposures,
            following=self._following(query, query_digest, view, engine, climbed.picks),
            num_before=len(query.after.shown) if query.after is not None else 0,
            role=role,
            wish=wanted.wish,
            wish_until=self._end_of(wanted.wish),
        )
        self._count(served, plan.reasons + climbed.reasons)
        if query.user_id is not None and query.after is None and not is_shed:
            self._remember(query.user_id, served)
        return served

    async def _read(self, query: Query, choice: Choice, *, deadline: float) -> UserView:
        if query.user_id is None:
            return UserView(query.events, None)
        patience_s = deadline - self._monotonic()
        layers = choice.layers(self._manifest.current, query.user_id)
        if query.after is not None:
            layers = pin_layers(query.after, layers, self._manifest.current)
        view = await self._users.read(
            query.user_id, layers, patience_s=patience_s, is_kept=query.after is None
        )
        if query.events:
            view = replace(view, history=merge_events((*view.history, *query.events)))
        if choice.caps_records:
            view = replace(view, record=choice.cap(view.record))
        if self._manifest.current is None and self._manifest.refusal:
            return replace(view, troubles=(*view.troubles, Reason.MANIFEST))
        return view

    def _wanted(self, query: Query, view: UserView, plan: Plan, engine: Engine) -> Wanted:
        exclude = set(engine.catalog.rows(query.exclude)) if query.exclude else set()
        if query.exclude_seen:
            exclude.update(plan.rows)
        if query.after is not None:
            exclude.update(query.after.shown)
            if query.exclude_seen:  # items seen after the first page too
                exclude.update(engine.catalog.rows([event.item_id for event in view.history]))
        return Wanted(
            num_items=query.num_items,
            exclude=frozenset(exclude),
            category=engine.categories.get(query.category) if query.category is not None else None,
            mode=query.mode or self._policy.mode,
            num_own=self._policy.num_own_prefixes,
            wish=self._wish(view, engine),
            wish_strength=self._policy.wish_strength,
        )

    def _wish(self, view: UserView, engine: Engine) -> HeldWish | None:
        """Return the wish that holds; None without one, or if it changes nothing."""
        if not view.wish:
            return None
        lasts_s = self._policy.wish_lasts_s
        turns = held_turns(view.wish, now_s=self._wall(), lasts_s=lasts_s)
        wish = engine.wishes.get(turns) if turns else None
        return None if wish is None or wish.wish.is_empty else wish

    def _end_of(self, wish: HeldWish | None) -> int:
        return int(wish.turns[-1].at_s + self._policy.wish_lasts_s) if wish is not None else 0

    async def _explain(
        self, query: Query, record: PrefixRecord | None, *, deadline: float
    ) -> tuple[str, ...]:
        """Read the reasoning texts of the record, by path number; none without a record."""
        if record is None or query.user_id is None:
            return ()
        texts = await self._users.read_thoughts(
            query.user_id, record.generation, patience_s=deadline - self._monotonic()
        )
        if texts is None:
            self._metrics.count_fallback(Reason.THOUGHTS)
        return texts or ()

    def _following(
        self,
        query: Query,
        query_digest: bytes,
        view: UserView,
        engine: Engine,
        picks: tuple[Pick, ...],
    ) -> Cursor | None:
        before = query.after.shown if query.after is not None else ()
        shown = (*before, *[pick.row for pick in picks])
        if len(picks) < query.num_items or len(shown) >= MAX_SHOWN:
            return None
        if query.after is not None:
            return query.after._replace(shown=shown)
        return begin_cursor(
            view,
            self._manifest.current,
            query=query_digest,
            release=engine.digest,
            shown=shown,
            now_s=self._wall(),
        )

    def _count(self, served: Served, reasons: tuple[Reason, ...]) -> None:
        for reason in reasons:
            self._metrics.count_fallback(reason)
        self._metrics.count_item_sources([pick.source for pick in served.picks])
        self._metrics.observe_stages(served.seconds)
        self._metrics.observe_rung(served.source, served.seconds["total"], is_held=served.is_held)
        self._metrics.observe_model(served.role, served.source, served.seconds["total"])
        if served.record is not None:
            self._metrics.observe_record_age(served.record_age_s)

    def _remember(self, user_id: str, served: Served) -> None:
        """Remember what a user is shown, until the user's next event judges it."""
        canary, item_ids = self._engines.canary, served.engine.catalog.item_ids
        self._hits.follow(canary.canary.version if canary is not None else None)
        shown = (item_ids[pick.row] for pick in served.picks)
        self._hits.show(user_id, served.role, shown, now_s=self._wall())

    def _log_exposures(self, user_id: str | None, served: Served) -> None:
        """Count and log the arms of an answer, with the items that it shows."""
        for experiment, arm, share in served.exposures:
            self._metrics.count_exposure(experiment, arm)
            fields = {
                "experiment": experiment,
                "arm": arm,
                "share": share,
                "user": user_hash(user_id) if user_id is not None else None,
                "at_ms": time.time_ns() // 1_000_000,
                "source": served.source,
                "generation": served.record.generation if served.record else None,
                "items": [served.engine.catalog.item_ids[pick.row] for pick in served.picks],
            }
            exposure_log.info("exposure", extra={"fields": fields})


def _stage_seconds(
    climbed: Climbed, *, store_s: float, reasons_s: float, total_s: float
) -> dict[str, float]:
    finish_s = max(climbed.spent.run_s - climbed.encode_s, 0.0) + reasons_s
    seconds = (store_s, climbed.spent.queue_s, climbed.encode_s, finish_s, total_s)
    return dict(zip(STAGES, seconds, strict=True))


def _is_fault(climbed: Climbed, plan: Plan, query: Query, *, has_wish: bool) -> bool:
    """Return True if a fault or lack of time kept the best rung from answering, not a filter.

    Without filters a rung that gives nothing counts as a fault: all its items are seen, or none of
    its scores is a number.
    """
    if not plan.rungs or climbed.rung == plan.rungs[0]:
        return False
    is_filtered = (
        bool(query.exclude) or query.category is not None or query.after is not None or has_wish
    )
    return not is_filtered or any(reason not in _BY_FILTER for reason in climbed.reasons)
