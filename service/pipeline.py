"""One recommendation, end to end and inside its deadline.

Reads the user, climbs the ladder on the worker thread, fills up, explains, counts. Whatever fails
on the way costs a rung, never the answer. Knows nothing of HTTP.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from models.records import PrefixRecord
from service.engine import Engine
from service.ladder import Climb, Pick, Plan, plan_rungs, top_up
from service.manifest import ManifestWatch
from service.metrics import Metrics
from service.reasons import Reason, Source
from service.users import Users, UserView
from service.worker import JobFailedError, OutOfTimeError, QueueFullError, Spent, Worker

ANSWER_RESERVE_S = 0.01  # of the budget, to fill up and to write the answer


@dataclass(frozen=True)
class Query:
    user_id: str
    num_items: int
    exclude_seen: bool = True
    explain: bool = False


@dataclass(frozen=True)
class Served:
    """What the ladder gave, ready to be written down.

    record: the one behind the answer, None unless its source is `personal` or `stale`.
    thoughts: texts by path number, None unless asked for. seconds: by stage.
    """

    engine: Engine
    picks: tuple[Pick, ...]
    source: Source
    is_degraded: bool
    record: PrefixRecord | None
    record_age_s: float
    thoughts: tuple[str, ...] | None
    seconds: dict[str, float]


class _Climbed(NamedTuple):
    picks: tuple[Pick, ...]
    reasons: tuple[Reason, ...]
    spent: Spent


class Pipeline:
    """`engine` may be replaced between requests; one request uses one."""

    def __init__(
        self,
        engine: Engine,
        *,
        users: Users,
        manifest: ManifestWatch,
        worker: Worker,
        metrics: Metrics,
        record_max_age_s: float,
        num_own_prefixes: int,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self._users = users
        self._manifest = manifest
        self._worker = worker
        self._metrics = metrics
        self._record_max_age_s = record_max_age_s
        self._num_own_prefixes = num_own_prefixes
        self._monotonic = monotonic
        self._wall = wall

    async def recommend(self, query: Query, *, deadline: float) -> Served:
        """Always an answer; `deadline` is a time of the monotonic clock."""
        engine, began_at = self.engine, self._monotonic()
        view = await self._read(query.user_id)
        store_s = self._monotonic() - began_at
        age_s = self._wall() - view.record.created_at if view.record else 0.0
        plan = plan_rungs(view, engine, is_over_age=age_s > self._record_max_age_s)
        climbed = await self._climb(query, plan, engine, deadline=deadline - ANSWER_RESERVE_S)
        source = climbed.picks[0].source if climbed.picks else Source.POPULAR
        record = plan.record if source in (Source.PERSONAL, Source.STALE) else None
        explained_at = self._monotonic()
        thoughts = await self._explain(query, record)
        ended_at = self._monotonic()
        served = Served(
            engine=engine,
            picks=climbed.picks,
            source=source,
            is_degraded=plan.is_impaired or source != plan.rungs[0].source,
            record=record,
            record_age_s=age_s,
            thoughts=thoughts,
            seconds={
                "store": store_s + ended_at - explained_at,
                "queue": climbed.spent.queue_s,
                "finish": climbed.spent.run_s,
                "total": ended_at - began_at,
            },
        )
        self._count(served, plan.reasons + climbed.reasons)
        return served

    async def _read(self, user_id: str) -> UserView:
        view = await self._users.read(user_id, self._manifest.layers)
        if self._manifest.current is None and self._manifest.refusal:
            return replace(view, troubles=(*view.troubles, Reason.MANIFEST))
        return view

    async def _climb(
        self, query: Query, plan: Plan, engine: Engine, *, deadline: float
    ) -> _Climbed:
        """The model's rungs on the worker thread, then the popular list."""
        exclude = frozenset(plan.rows) if query.exclude_seen else frozenset()
        climb = Climb(
            plan, engine, num_items=query.num_items, exclude=exclude, num_own=self._num_own_prefixes
        )
        spent, failures = Spent(0.0, 0.0), []
        try:
            done = await self._worker.run(
                lambda: climb.run(lambda: self._monotonic() < deadline), deadline=deadline
            )
            spent = done.spent
        except QueueFullError:
            failures.append(Reason.QUEUE_FULL)
        except OutOfTimeError as exc:
            spent = exc.spent
            failures.append(Reason.NO_TIME)
        except JobFailedError:
            failures.append(Reason.FINISH)
        reasons = (*climb.reasons, *failures)
        picks = top_up(tuple(climb.picks), engine, num_items=query.num_items, exclude=exclude)
        return _Climbed(tuple(picks), reasons, spent)

    async def _explain(self, query: Query, record: PrefixRecord | None) -> tuple[str, ...] | None:
        if not query.explain:
            return None
        if record is None:
            return ()
        texts = await self._users.read_thoughts(query.user_id, record.generation)
        if texts is None:
            self._metrics.fallback(Reason.THOUGHTS)
        return texts or ()

    def _count(self, served: Served, reasons: tuple[Reason, ...]) -> None:
        for reason in reasons:
            self._metrics.fallback(reason)
        self._metrics.item_sources([pick.source for pick in served.picks])
        self._metrics.stages(served.seconds)
        if served.record is not None:
            self._metrics.record_age(served.record_age_s)
