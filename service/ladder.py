"""The ladder: which rungs may answer for a user, and the climb down them until n items are found.

    personal -> stale -> online -> global -> popular

Pure decisions over a user's state and an engine: no store, no queue, no clock of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.history import window_start
from models.records import PrefixRecord
from models.sid import Prefix
from service.engine import Engine
from service.reasons import Reason, Source
from service.users import UserView

HasTime = Callable[[], bool]


class Rung(NamedTuple):
    """prefixes: what to finish; None lets the online model pick its own."""

    source: Source
    prefixes: tuple[Prefix, ...] | None


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

    rungs: tuple[Rung, ...]
    rows: tuple[int, ...]
    record: PrefixRecord | None
    reasons: tuple[Reason, ...]
    is_impaired: bool


def plan_rungs(view: UserView, engine: Engine, *, is_over_age: bool) -> Plan:
    """Decide the rungs for one user; `is_over_age` speaks of the view's record."""
    rows = tuple(
        row for event in view.history if (row := engine.catalog.row(event.item_id)) is not None
    )
    record = view.record if view.record is not None and view.record.prefixes else None
    reasons, rungs = list(view.troubles), []
    if record is not None:
        if is_over_age:
            reasons.append(Reason.OVER_AGE)
        source = Source.STALE if reasons else Source.PERSONAL
        rungs.append(Rung(source, tuple(prefix.codes for prefix in record.prefixes)))
    if view.has_lost_history:
        reasons.append(Reason.LOST_HISTORY)
    is_impaired = bool(reasons)
    if record is None:
        reasons.append(Reason.NO_RECORD)
    if rows:
        rungs.append(Rung(Source.ONLINE, None))
    elif record is None:
        reasons.append(Reason.NO_HISTORY)
    rungs.append(Rung(Source.GLOBAL, engine.release.global_prefixes))
    return Plan(tuple(rungs), rows, record, tuple(reasons), is_impaired)


class Climb:
    """One walk down the rungs of a plan.

    It runs on the worker thread. `picks` and `reasons` only grow, rung by rung, so a caller who
    stops waiting takes what is there.
    """

    def __init__(
        self, plan: Plan, engine: Engine, *, num_items: int, exclude: frozenset[int], num_own: int
    ) -> None:
        self.picks: list[Pick] = []
        self.reasons: list[Reason] = []
        self._plan = plan
        self._engine = engine
        self._num_items = num_items
        self._taken = set(exclude)
        self._num_own = num_own

    def run(self, has_time: HasTime) -> None:
        """Down the model's rungs until enough items are found or the time is up."""
        for rung in self._plan.rungs:
            if not has_time():
                self.reasons.append(Reason.NO_TIME)
                return
            found = self._finish(rung)
            self._taken.update(pick.row for pick in found)
            self.picks.extend(found)
            if len(self.picks) >= self._num_items:
                return
            self.reasons.append(Reason.SHORT if found else Reason.EMPTY)

    def _finish(self, rung: Rung) -> list[Pick]:
        finisher, rows = self._engine.finisher, self._plan.rows
        state = finisher.encode(rows[window_start(len(rows), finisher.window) :])
        if rung.prefixes is None:
            candidates = finisher.own_prefixes(state, count=self._num_own)
        else:
            candidates = finisher.candidates(rung.prefixes)
        found = finisher.finish(
            state, candidates, k=self._num_items - len(self.picks), exclude=self._taken
        )
        return [Pick(scored.row, scored.logprob, rung.source) for scored in found]


def top_up(
    picks: Sequence[Pick], engine: Engine, *, num_items: int, exclude: frozenset[int]
) -> list[Pick]:
    """The lowest rung: fill up to `num_items` from the popular list, which takes no time."""
    filled = list(picks[:num_items])
    taken = exclude | {pick.row for pick in filled}
    for row in engine.popular_rows:
        if len(filled) >= num_items:
            break
        if row not in taken:
            filled.append(Pick(row, None, Source.POPULAR))
    return filled
