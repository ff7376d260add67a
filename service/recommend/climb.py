"""Climb down the rungs of a plan on the model thread, until enough items are found.

Knows how long each rung takes, and skips one that would end after the deadline. Knows nothing of
stores, users or HTTP.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import Candidates
from models.online.finish import KeptHistory
from models.online.memory.tree_memory import NightBonus
from service.recommend.engine import Engine
from service.recommend.ladder import RECORDED, Pick, Plan, Wanted, top_up
from service.recommend.model_thread import (
    JobFailedError,
    ModelThread,
    OutOfTimeError,
    QueueFullError,
    Spent,
)
from service.recommend.reasons import Asked, ItemReason, tell_reasons
from service.sources import Mode, Reason, Source

Clock = Callable[[], float]
_WEIGHT = 0.2  # of the newest time in the moving average
_BRIEF_S = 0.0005  # handing a job to another thread and back costs about as much at the worst
_DOUBT = 0.95  # factor on the estimate of a skipped rung: one stall does not bar it for ever


class RungTimes:
    """Moving averages of the seconds that each rung takes: by the clock, and of CPU time.

    A rung that never ran is expected to take no time. CPU time is kept apart because a thread that
    waits for a core does no more work in that time.
    """

    def __init__(self) -> None:
        self._expected_s: dict[Source, float] = {}
        self._work_s: dict[Source, float] = {}

    def expected_s(self, source: Source) -> float:
        return self._expected_s.get(source, 0.0)

    def is_brief(self, source: Source) -> bool:
        """True if the rung is known to take less CPU time than the hand-over to a thread."""
        return self._work_s.get(source, _BRIEF_S) < _BRIEF_S

    def record(self, source: Source, seconds: float, *, work_s: float) -> None:
        """Add one measurement; work_s: seconds of CPU time."""
        _follow(self._expected_s, source, seconds)
        _follow(self._work_s, source, work_s)

    def record_skip(self, source: Source) -> None:
        """Lower the estimate that kept the rung from being tried."""
        self._expected_s[source] = self.expected_s(source) * _DOUBT


class Climb:
    """One walk down the rungs of a plan.

    The model thread runs it. `picks` and `reasons` only grow, rung by rung, so a caller that stops
    waiting takes the items found so far.
    """

    def __init__(
        self, plan: Plan, engine: Engine, wanted: Wanted, *, times: RungTimes, clock: Clock
    ) -> None:
        self.picks: list[Pick] = []
        self.reasons: list[Reason] = []
        self.answered: Source | None = None  # the first rung that gave an item
        self.encode_s = 0.0
        self._plan = plan
        self._engine = engine
        self._wanted = wanted
        self._times = times
        self._clock = clock
        self._taken = set(wanted.exclude)
        self._is_united = wanted.mode != Mode.STRICT and plan.record is not None
        self._night: NightBonus | None = None  # of the rung of the record, in a fused answer
        self._wish = wanted.wish if wanted.wish is not None and wanted.wish.raises else None

    def run(self, deadline: float) -> None:
        """Try the rungs of the model in order, until enough items are found or time is up.

        A rung that is expected to end after the deadline is skipped for a cheaper one.
        """
        if self._wanted.category is not None and not len(self._wanted.category.rows):
            self.reasons.append(Reason.EMPTY)
            return
        for rung in self._plan.rungs:
            if self._is_united and rung == Source.ONLINE:
                continue  # the record's rung has searched its prefixes too
            now = self._clock()
            if now + self._times.expected_s(rung) >= deadline:
                self._skip(rung, is_in_time=now < deadline)
                continue
            found = self._find_timed(rung)
            if found and self.answered is None:
                self.answered = rung
            self._taken.update([pick.row for pick in found])
            self.picks.extend(found)
            if len(self.picks) >= self._wanted.num_items:
                return
            self.reasons.append(Reason.SHORT if found else Reason.EMPTY)

    def _skip(self, rung: Source, *, is_in_time: bool) -> None:
        if is_in_time:
            self._times.record_skip(rung)
        if Reason.NO_TIME not in self.reasons:
            self.reasons.append(Reason.NO_TIME)

    def _find_timed(self, rung: Source) -> list[Pick]:
        began_at, worked_s = self._clock(), time.thread_time()
        found = self._find(rung)
        seconds, work_s = self._clock() - began_at, time.thread_time() - worked_s
        self._times.record(rung, seconds, work_s=work_s)
        return found

    def _find(self, rung: Source) -> list[Pick]:
        engine, wanted = self._engine, self._wanted
        began_at = self._clock()
        state = engine.encode(self._plan.rows)
        self.encode_s += self._clock() - began_at
        self._night = self._night_bonus(rung)
        found = engine.finisher.finish(
            state,
            self._candidates(rung, state),
            k=wanted.num_items - len(self.picks),
            exclude=self._taken,
            allowed_N=self._allowed(),
            night=self._bonus(),
        )
        return [
            Pick(scored.row, scored.score, self._source(rung, scored.row), scored.because)
            for scored in found
        ]

    def _night_bonus(self, rung: Source) -> NightBonus | None:
        if rung not in RECORDED or self._wanted.mode != Mode.FUSED:
            return None
        assert self._plan.record is not None
        return self._engine.night_bonus(self._plan.record, num_fresh=self._plan.num_fresh)

    def _bonus(self) -> NightBonus | None:
        """Return the bonus of the night and of the wish together."""
        if self._wish is None or not self._engine.finisher.takes_nights:
            return self._night
        bonus = self._wish.bonus(self._wanted.wish_strength)
        if bonus is None or self._night is None:
            return bonus or self._night
        return bonus.joined(self._night)

    def _allowed(self) -> NDArray[np.bool_] | None:
        """Return the mask of all filters; a model that takes no bonus gets the wish as a filter."""
        allowed_N = self._wanted.allowed
        if self._wish is None or self._engine.finisher.takes_nights:
            return allowed_N
        return self._wish.only if allowed_N is None else self._wish.only & allowed_N

    def _candidates(self, rung: Source, state: KeptHistory) -> Candidates:
        if rung == Source.GLOBAL:
            return self._engine.global_candidates if self._wish is None else self._whole
        if rung == Source.ONLINE:
            return self._own_candidates(state)
        if self._wanted.mode == Mode.FUSED:
            return self._whole
        assert self._plan.record is not None
        recorded = self._engine.candidates(self._plan.record)
        if self._wish is not None:
            recorded = self._engine.finisher.union(recorded, self._wish.candidates)
        if self._is_united:
            return self._engine.finisher.union(recorded, self._own_candidates(state))
        return recorded

    @property
    def _whole(self) -> Candidates:
        """Return all prefixes of the category; without one, of the catalog."""
        category = self._wanted.category
        return category.candidates if category is not None else self._engine.finisher.whole

    def _own_candidates(self, state: KeptHistory) -> Candidates:
        """Return the model's own prefixes; all prefixes of a category or under a wish."""
        if self._wanted.category is not None or self._wish is not None:
            return self._whole
        return self._engine.finisher.own_prefixes(state, count=self._wanted.num_own)

    def _source(self, rung: Source, row: int) -> Source:
        """Return the rung, or `online` for an item of a union that the record does not hold.

        A wish makes a union of every search: it looks beyond the record.
        """
        if rung not in RECORDED or not (self._is_united or self._wish is not None):
            return rung
        is_recorded = self._prefix_of(row) in self._recorded or row in self._night_rows
        return rung if is_recorded else Source.ONLINE

    def _prefix_of(self, row: int) -> tuple[int, ...]:
        catalog = self._engine.catalog
        return tuple(catalog.sids[row, : catalog.space.prefix_depth].tolist())

    @cached_property
    def _night_rows(self) -> frozenset[int]:
        return frozenset(self._night.row_R.tolist()) if self._night is not None else frozenset()

    @cached_property
    def _recorded(self) -> frozenset[tuple[int, ...]]:
        record = self._plan.record
        return frozenset(prefix.codes for prefix in record.prefixes) if record else frozenset()


class Climbed(NamedTuple):
    """Items of one climb, filled up with popular ones, and the way to them."""

    picks: tuple[Pick, ...]
    rung: Source  # the first rung that gave an item
    source: Source  # the same rung, or `online` if no item of a union came from the record
    reasons: tuple[Reason, ...] = ()
    spent: Spent = Spent(0.0, 0.0)
    encode_s: float = 0.0


class Climber:
    """Hand climbs over to the model thread, and keep the times of the rungs."""

    def __init__(self, thread: ModelThread, *, clock: Clock = time.monotonic) -> None:
        self._thread = thread
        self._clock = clock
        self._times = RungTimes()

    async def tell_reasons(self, asked: Asked, *, deadline: float) -> tuple[ItemReason, ...] | None:
        """Tell the reasons of the items that a climb found; None if there is no time."""
        return await tell_reasons(asked, self._thread, deadline=deadline)

    async def climb(
        self, plan: Plan, engine: Engine, wanted: Wanted, *, deadline: float
    ) -> Climbed:
        """Try the rungs of the plan until `deadline`, then fill up with popular items."""
        if not plan.rungs:
            picks = tuple(top_up((), engine, wanted))
            return Climbed(picks, Source.POPULAR, Source.POPULAR)
        climb = Climb(plan, engine, wanted, times=self._times, clock=self._clock)
        spent, failures = Spent(0.0, 0.0), []
        try:
            is_brief = self._times.is_brief(plan.rungs[0])
            done = await self._thread.run(
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
        return Climbed(
            picks=tuple(top_up(found, engine, wanted)),
            rung=rung,
            source=rung if has_own else found[0].source,
            reasons=(*climb.reasons, *failures),
            spent=spent,
            encode_s=climb.encode_s,
        )


def _follow(averages: dict[Source, float], source: Source, newest: float) -> None:
    before = averages.get(source, newest)
    averages[source] = before + _WEIGHT * (newest - before)
