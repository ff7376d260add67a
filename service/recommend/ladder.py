"""The ladder: which rungs may answer for a user, and the climb down them until n items are found.

    personal -> stale -> online -> global -> popular

Pure decisions over a user's state and an engine: no store, no queue, no clock of its own.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.online.finish import KeptHistory
from models.store.records import PrefixRecord
from service.recommend.categories import Category
from service.recommend.engine import Engine
from service.recommend.rung_times import Pace
from service.sources import Reason, Source
from service.users.reader import UserView

Clock = Callable[[], float]
RECORDED = (Source.PERSONAL, Source.STALE)  # the rungs of a record


class Pick(NamedTuple):
    """logprob: Eq. 11; None where no model was asked."""

    row: int
    logprob: float | None
    source: Source


@dataclass(frozen=True)
class Plan:
    """rungs: those that this user's state allows, best first; `popular` stands below them all.

    rows: the history as catalog rows, oldest first. reasons: why higher rungs are missing.
    is_impaired: a fault or an over-age record keeps the user from a better rung or fresher data.
    """

    rungs: tuple[Source, ...]
    rows: tuple[int, ...]
    record: PrefixRecord | None
    reasons: tuple[Reason, ...]
    is_impaired: bool


@dataclass(frozen=True)
class Wanted:
    """What an answer may hold. exclude: catalog rows. category: None for the whole catalog.

    is_union: a record's prefixes together with the online model's own, not alone.
    num_own: how many of its own prefixes the online model takes.
    """

    num_items: int
    exclude: frozenset[int]
    category: Category | None
    is_union: bool
    num_own: int


def known_rows(catalog: Catalog, item_ids: Iterable[str]) -> tuple[int, ...]:
    """Rows of those items that the catalog holds, in the order given."""
    return tuple(row for item_id in item_ids if (row := catalog.row(item_id)) is not None)


def plan_rungs(
    view: UserView, engine: Engine, *, is_over_age: bool, held_at: Source | None = None
) -> Plan:
    """Decide the rungs for one user; `is_over_age` speaks of the view's record.

    held_at: none above it, of a user who belongs to that rung's sticky share.
    """
    if held_at is not None:
        return _plan_held(view, engine, held_at)
    rows = known_rows(engine.catalog, (event.item_id for event in view.history))
    record = view.record if view.record is not None and view.record.prefixes else None
    reasons, rungs = list(view.troubles), []
    if record is not None:
        if is_over_age:
            reasons.append(Reason.OVER_AGE)
        rungs.append(Source.STALE if reasons else Source.PERSONAL)
    if view.has_lost_history:
        reasons.append(Reason.LOST_HISTORY)
    is_impaired = bool(reasons)
    if record is None:
        reasons.append(Reason.NO_RECORD)
    if rows:
        rungs.append(Source.ONLINE)
    elif record is None:
        reasons.append(Reason.NO_HISTORY)
    rungs.append(Source.GLOBAL)
    return Plan(tuple(rungs), rows, record, tuple(reasons), is_impaired)


def plan_popular(reason: Reason) -> Plan:
    """For a request that is shed: no store was asked and no model is."""
    return Plan(rungs=(), rows=(), record=None, reasons=(reason,), is_impaired=True)


def _plan_held(view: UserView, engine: Engine, held_at: Source) -> Plan:
    rows = known_rows(engine.catalog, (event.item_id for event in view.history))
    lost = (Reason.LOST_HISTORY,) if view.has_lost_history else ()
    rungs = {
        Source.ONLINE: (Source.ONLINE, Source.GLOBAL) if rows else (Source.GLOBAL,),
        Source.GLOBAL: (Source.GLOBAL,),
        Source.POPULAR: (),
    }[held_at]
    reasons = (Reason.HELD, *view.troubles, *lost)
    return Plan(rungs, rows, None, reasons, is_impaired=len(reasons) > 1)


class Climb:
    """One walk down the rungs of a plan.

    The worker runs it. `picks` and `reasons` only grow, rung by rung, so a caller who
    stops waiting takes what is there. answered: the first rung that gave an item.
    """

    def __init__(
        self, plan: Plan, engine: Engine, wanted: Wanted, *, pace: Pace, clock: Clock
    ) -> None:
        self.picks: list[Pick] = []
        self.reasons: list[Reason] = []
        self.answered: Source | None = None
        self.encode_s = 0.0
        self._plan = plan
        self._engine = engine
        self._wanted = wanted
        self._pace = pace
        self._clock = clock
        self._taken = set(wanted.exclude)
        self._is_united = wanted.is_union and plan.record is not None

    def run(self, deadline: float) -> None:
        """Down the model's rungs until enough items are found or the time is up.

        A rung that would not be through by the deadline, as far as the pace tells, is passed over
        for a cheaper one.
        """
        if self._wanted.category is not None and not len(self._wanted.category.rows):
            self.reasons.append(Reason.EMPTY)
            return
        for rung in self._plan.rungs:
            if self._is_united and rung == Source.ONLINE:
                continue  # its prefixes were among those of the record's rung
            if not self._has_time_for(rung, deadline):
                continue
            found = self._find_in_time(rung)
            if found and self.answered is None:
                self.answered = rung
            self._taken.update(pick.row for pick in found)
            self.picks.extend(found)
            if len(self.picks) >= self._wanted.num_items:
                return
            self.reasons.append(Reason.SHORT if found else Reason.EMPTY)

    def _has_time_for(self, rung: Source, deadline: float) -> bool:
        now = self._clock()
        if now + self._pace.expected_s(rung) < deadline:
            return True
        if now < deadline:
            self._pace.was_skipped(rung)
        if Reason.NO_TIME not in self.reasons:
            self.reasons.append(Reason.NO_TIME)
        return False

    def _find_in_time(self, rung: Source) -> list[Pick]:
        began_at, worked_s = self._clock(), time.thread_time()
        found = self._find(rung)
        self._pace.took(rung, self._clock() - began_at, work_s=time.thread_time() - worked_s)
        return found

    def _find(self, rung: Source) -> list[Pick]:
        engine, wanted = self._engine, self._wanted
        began_at = self._clock()
        state = engine.encode(self._plan.rows)
        self.encode_s += self._clock() - began_at
        found = engine.finisher.finish(
            state,
            self._candidates(rung, state),
            k=wanted.num_items - len(self.picks),
            exclude=self._taken,
            allowed_N=wanted.category.mask if wanted.category is not None else None,
        )
        return [
            Pick(scored.row, scored.logprob, self._source(rung, scored.row)) for scored in found
        ]

    def _candidates(self, rung: Source, state: KeptHistory) -> Candidates:
        if rung == Source.GLOBAL:
            return self._engine.global_candidates
        if rung == Source.ONLINE:
            return self._own_candidates(state)
        assert self._plan.record is not None
        recorded = self._engine.candidates(self._plan.record)
        if self._is_united:
            return self._engine.finisher.union(recorded, self._own_candidates(state))
        return recorded

    def _own_candidates(self, state: KeptHistory) -> Candidates:
        """The model's own prefixes; all of a category's, which it then ranks item by item."""
        if self._wanted.category is not None:
            return self._wanted.category.candidates
        return self._engine.finisher.own_prefixes(state, count=self._wanted.num_own)

    def _source(self, rung: Source, row: int) -> Source:
        """The rung, but for an item that came to a record's by the model's own prefixes."""
        if not self._is_united or rung not in RECORDED:
            return rung
        return rung if self._prefix_of(row) in self._recorded else Source.ONLINE

    def _prefix_of(self, row: int) -> tuple[int, ...]:
        catalog = self._engine.catalog
        return tuple(catalog.sids[row, : catalog.space.prefix_depth].tolist())

    @cached_property
    def _recorded(self) -> frozenset[tuple[int, ...]]:
        record = self._plan.record
        return frozenset(prefix.codes for prefix in record.prefixes) if record else frozenset()


def top_up(picks: Sequence[Pick], engine: Engine, wanted: Wanted) -> list[Pick]:
    """The lowest rung: fill up with the most popular items, which takes no time."""
    filled = list(picks[: wanted.num_items])
    if len(filled) == wanted.num_items:
        return filled
    taken = wanted.exclude | {pick.row for pick in filled}
    popular = engine.popular_rows if wanted.category is None else wanted.category.popular_rows
    for row in popular:
        if len(filled) >= wanted.num_items:
            break
        if row not in taken:
            filled.append(Pick(row, None, Source.POPULAR))
    return filled
