"""One recommendation, end to end and inside its deadline.

Reads the user, climbs the ladder on the worker thread, fills up, explains, counts. Whatever fails
on the way costs a rung, never the answer. Knows nothing of HTTP.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import orjson

from models.store.events import Event, merge_events
from models.store.records import PrefixRecord
from service.limits.concurrency import Admission, Limiter
from service.limits.loop_lag import LoopLag
from service.recommend.engine import Engine
from service.recommend.experiments import Choice, Experiments, Exposure
from service.recommend.ladder import (
    RECORDED,
    Climb,
    Pick,
    Plan,
    Wanted,
    known_rows,
    plan_popular,
    plan_rungs,
    top_up,
)
from service.recommend.model_thread import (
    JobFailedError,
    OutOfTimeError,
    QueueFullError,
    Spent,
    Worker,
)
from service.recommend.pages import (
    LIFETIME_S,
    MAX_SHOWN,
    Cursor,
    digest,
    digest_of_newest,
    pinned_history,
    pinned_layers,
)
from service.recommend.rung_times import Pace
from service.sources import Criticality, Mode, Reason, Source
from service.telemetry.metrics import Metrics
from service.users.manifest_watch import ManifestWatch
from service.users.reader import Users, UserView

STAGES = ("store", "queue", "encode", "finish", "total")  # as the API names them
_ANSWER_RESERVE_S = 0.002  # of the budget, to fill up and to write the answer
_NOBODY = UserView((), None)
_BY_FILTER = (Reason.SHORT, Reason.EMPTY)  # what a filter explains, and no fault


@dataclass(frozen=True)
class Query:
    """exclude: item ids; those that the catalog lacks are ignored. category: any level's text.

    user_id: None for somebody of whom nothing is stored. events: the caller's, on top of what is.
    after: where the list goes on.
    """

    user_id: str | None
    num_items: int
    exclude_seen: bool = True
    explain: bool = False
    exclude: tuple[str, ...] = ()
    category: str | None = None
    mode: Mode | None = None  # None: as configured
    criticality: Criticality = Criticality.DEFAULT
    events: tuple[Event, ...] = ()
    after: Cursor | None = None

    @cached_property
    def asked(self) -> bytes:
        """A digest of all that the pages of one list have in common."""
        items = [event.item_id for event in self.events]
        filters = (self.exclude_seen, sorted(self.exclude), self.category, self.mode)
        return digest(orjson.dumps((self.user_id, items, *filters)))


@dataclass(frozen=True)
class Served:
    """What the ladder gave, ready to be written down.

    record: the one behind the answer, None unless its source is `personal` or `stale`.
    thoughts: texts by path number, None unless asked for. seconds: by stage. exposures: which arms
    of which experiments had a say in it. is_held: the user is of the sticky share of a lower rung,
    which is no fault, and in no experiment. following: where the next page begins, None at the end.
    num_before: items on the pages before.
    """

    engine: Engine
    picks: tuple[Pick, ...]
    source: Source
    is_degraded: bool
    is_held: bool
    record: PrefixRecord | None
    record_age_s: float
    thoughts: tuple[str, ...] | None
    seconds: dict[str, float]
    exposures: tuple[Exposure, ...] = ()
    following: Cursor | None = None
    num_before: int = 0


class _Climbed(NamedTuple):
    """rung: the first that gave an item. source: the same, but where none of a record's items made
    it into a union, the one that did."""

    picks: tuple[Pick, ...]
    rung: Source
    source: Source
    reasons: tuple[Reason, ...]
    spent: Spent
    encode_s: float

    def seconds(self, *, store_s: float, total_s: float) -> dict[str, float]:
        """By stage."""
        finish_s = max(self.spent.run_s - self.encode_s, 0.0)
        each = (store_s, self.spent.queue_s, self.encode_s, finish_s, total_s)
        return dict(zip(STAGES, each, strict=True))


class Pipeline:
    """`engine` and `arms` may be replaced between requests; one request uses one."""

    def __init__(
        self,
        engine: Engine,
        *,
        users: Users,
        manifest: ManifestWatch,
        worker: Worker,
        limiter: Limiter,
        lag: LoopLag,
        metrics: Metrics,
        record_max_age_s: float,
        num_own_prefixes: int,
        mode: Mode,
        experiments: Experiments,
        arms: Mapping[Path, Engine],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self._users = users
        self._manifest = manifest
        self._worker = worker
        self._limiter = limiter
        self._lag = lag
        self._metrics = metrics
        self._record_max_age_s = record_max_age_s
        self._num_own_prefixes = num_own_prefixes
        self._mode = mode
        self._experiments = experiments
        self.arms = arms
        self._pace = Pace()
        self._monotonic = monotonic
        self._wall = wall

    async def recommend(
        self, query: Query, *, deadline: float, came_at: float | None = None
    ) -> Served:
        """Always an answer; `deadline` is a time of the monotonic clock, `came_at` as well.

        Beyond the concurrency limit it is of the lowest rung, which asks neither store nor model.
        Raises CursorGone for a list whose release or generation is no longer served.
        """
        if self._limiter.admit(query.criticality) == Admission.POPULAR:
            return await self._answer(query, deadline=deadline, is_shed=True)
        came_at = self._monotonic() if came_at is None else came_at
        sample_s: float | None = None
        try:
            served = await self._answer(query, deadline=deadline, is_shed=False)
            sample_s = self._queued_s(served, came_at)
        finally:
            self._limiter.release(sample_s, now=self._monotonic())
        return served

    def _queued_s(self, served: Served, came_at: float) -> float:
        """What queueing and work took: all but the store's time. Of that a late loop has a part:
        the reply is there, and nobody reads it."""
        lag_s = self._lag.seconds
        store_s = max(served.seconds["store"] - lag_s, 0.0)
        return self._monotonic() - came_at - store_s + lag_s

    async def _answer(self, query: Query, *, deadline: float, is_shed: bool) -> Served:
        began_at, asked = self._monotonic(), query.asked
        choice = self._experiments.assign(query.user_id, query.mode, is_shed=is_shed)
        query = replace(query, mode=choice.mode) if choice.mode is not None else query
        engine = self.arms[choice.release] if choice.release else self.engine
        in_time = deadline - answer_reserve_s(self._limiter, self._lag)
        if query.after is not None:
            query.after.check_release(engine.digest)
        view = _NOBODY if is_shed else await self._read(query, choice, deadline=in_time)
        store_s = self._monotonic() - began_at
        age_s = self._wall() - view.record.created_at if view.record else 0.0
        if is_shed:
            plan = plan_popular(Reason.OVERLOAD)
        else:
            plan = self._plan(query, view, engine, age_s=age_s, held_at=choice.held_at)
        wanted = self._wanted(query, view, plan, engine)
        climbed = await self._climb(wanted, plan, engine, deadline=in_time)
        record = plan.record if climbed.source in RECORDED else None
        explained_at = self._monotonic()
        thoughts = await self._explain(query, record, deadline=in_time)
        ended_at = self._monotonic()
        served = Served(
            engine=engine,
            picks=climbed.picks,
            source=climbed.source,
            is_degraded=plan.is_impaired or _fell(climbed, plan, query),
            is_held=choice.held_at is not None,
            record=record,
            record_age_s=age_s,
            thoughts=thoughts,
            seconds=climbed.seconds(
                store_s=store_s + ended_at - explained_at, total_s=ended_at - began_at
            ),
            exposures=choice.exposures,
            following=self._following(query, asked, view, engine, climbed.picks),
            num_before=len(query.after.shown) if query.after is not None else 0,
        )
        self._count(served, plan.reasons + climbed.reasons)
        return served

    def _plan(
        self,
        query: Query,
        view: UserView,
        engine: Engine,
        *,
        age_s: float,
        held_at: Source | None,
    ) -> Plan:
        basis = view if query.after is None else _pinned(view, query.after)
        is_over_age = age_s > self._record_max_age_s
        return plan_rungs(basis, engine, is_over_age=is_over_age, held_at=held_at)

    async def _read(self, query: Query, choice: Choice, *, deadline: float) -> UserView:
        if query.user_id is None:
            return UserView(query.events, None)
        patience_s = deadline - self._monotonic()
        layers = choice.layers(self._manifest.current, query.user_id)
        if query.after is not None:
            layers = pinned_layers(query.after, layers, self._manifest.current)
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

    async def _climb(
        self, wanted: Wanted, plan: Plan, engine: Engine, *, deadline: float
    ) -> _Climbed:
        """The model's rungs by the worker, then the popular list."""
        if not plan.rungs:
            picks = tuple(top_up((), engine, wanted))
            return _Climbed(picks, Source.POPULAR, Source.POPULAR, (), Spent(0.0, 0.0), 0.0)
        climb = Climb(plan, engine, wanted, pace=self._pace, clock=self._monotonic)
        spent, failures = Spent(0.0, 0.0), []
        try:
            is_brief = self._pace.is_brief(plan.rungs[0])
            done = await self._worker.run(
                lambda: climb.run(deadline), deadline=deadline, is_brief=is_brief
            )
            spent = done.spent
        except QueueFullError:
            failures.append(Reason.QUEUE_FULL)
        except OutOfTimeError as exc:
            spent = exc.spent
            failures.append(Reason.NO_TIME)
        except JobFailedError:
            failures.append(Reason.FINISH)
        found = tuple(climb.picks)  # the thread may still be adding
        rung = (found and climb.answered) or Source.POPULAR
        has_own = not found or any(pick.source == rung for pick in found)
        return _Climbed(
            picks=tuple(top_up(found, engine, wanted)),
            rung=rung,
            source=rung if has_own else found[0].source,
            reasons=(*climb.reasons, *failures),
            spent=spent,
            encode_s=climb.encode_s,
        )

    def _wanted(self, query: Query, view: UserView, plan: Plan, engine: Engine) -> Wanted:
        exclude = set(known_rows(engine.catalog, query.exclude))
        if query.exclude_seen:
            exclude.update(plan.rows)
        if query.after is not None:
            exclude.update(query.after.shown)
            if query.exclude_seen:  # since the first page too
                exclude.update(_rows_of(view, engine))
        return Wanted(
            num_items=query.num_items,
            exclude=frozenset(exclude),
            category=engine.categories.get(query.category) if query.category is not None else None,
            is_union=(query.mode or self._mode) == Mode.UNION,
            num_own=self._num_own_prefixes,
        )

    async def _explain(
        self, query: Query, record: PrefixRecord | None, *, deadline: float
    ) -> tuple[str, ...] | None:
        if not query.explain:
            return None
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
        asked: bytes,
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
        manifest = self._manifest.current
        return Cursor(
            expires_at=int(self._wall()) + LIFETIME_S,
            epoch=manifest.epoch if manifest is not None else 0,
            generation=view.record.generation if view.record is not None else None,
            asked=asked,
            release=engine.digest,
            newest_event=digest_of_newest(view.history),
            shown=shown,
        )

    def _count(self, served: Served, reasons: tuple[Reason, ...]) -> None:
        for reason in reasons:
            self._metrics.count_fallback(reason)
        self._metrics.count_item_sources([pick.source for pick in served.picks])
        self._metrics.observe_stages(served.seconds)
        self._metrics.observe_rung(served.source, served.seconds["total"], is_held=served.is_held)
        if served.record is not None:
            self._metrics.observe_record_age(served.record_age_s)


def answer_reserve_s(limiter: Limiter, lag: LoopLag) -> float:
    """Of the budget, to fill up and to write the answer. In a flood the timer that ends a wait is
    as late as the loop, and so is the answer on its way out."""
    return _ANSWER_RESERVE_S + (2 * lag.seconds if limiter.is_flooded else 0.0)


def _pinned(view: UserView, cursor: Cursor) -> UserView:
    """As the list was begun; a record of another generation is worth none here."""
    record = view.record
    if record is not None and record.generation != cursor.generation:
        record = None
    return replace(view, history=pinned_history(cursor, view.history), record=record)


def _rows_of(view: UserView, engine: Engine) -> tuple[int, ...]:
    return known_rows(engine.catalog, (event.item_id for event in view.history))


def _fell(climbed: _Climbed, plan: Plan, query: Query) -> bool:
    """Whether a fault or the time, and not the caller's filters, kept the best rung from answering.

    Without filters a rung that gives nothing counts as a fault: all its items are seen, or none of
    its scores is a number.
    """
    if not plan.rungs or climbed.rung == plan.rungs[0]:
        return False
    is_filtered = bool(query.exclude) or query.category is not None or query.after is not None
    return not is_filtered or any(reason not in _BY_FILTER for reason in climbed.reasons)
