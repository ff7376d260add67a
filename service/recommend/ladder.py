"""Decide which rungs of the ladder may answer for one user.

    personal -> stale -> online -> global -> popular

Pure decisions over a user's state and an engine: no store, no thread, no clock.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.store.events import Event
from models.store.records import PrefixRecord
from service.recommend.categories import Category
from service.recommend.engine import Engine
from service.recommend.wishes import HeldWish
from service.sources import Mode, Reason, Source
from service.users.reader import UserView

RECORDED = (Source.PERSONAL, Source.STALE)  # the rungs of a record


class Pick(NamedTuple):
    """One recommended item."""

    row: int  # of the catalog
    score: float | None  # Eq. 11 and the memory's bonus; None from a rung without a model
    source: Source
    because: tuple[int, ...] = ()  # catalog rows of the history that gave it most evidence


class Plan(NamedTuple):
    """Rungs that may answer for one user, and reasons why better ones may not."""

    rungs: tuple[Source, ...]  # rungs of the model, best first; `popular` comes after all of them
    rows: tuple[int, ...]  # the history as catalog rows, oldest first
    record: PrefixRecord | None  # None unless it has prefixes
    reasons: tuple[Reason, ...]  # why higher rungs are missing
    is_impaired: bool  # a fault or an over-age record costs a better rung or fresher data
    num_fresh: int = 0  # events since the record's thinking


class Wanted(NamedTuple):
    """Items that an answer may hold."""

    num_items: int
    exclude: frozenset[int]  # catalog rows
    category: Category | None  # None: the whole catalog
    mode: Mode  # what the rungs of a record search
    num_own: int  # number of its own prefixes that the online model takes
    wish: HeldWish | None = None
    wish_strength: float = 0.0  # nats that the wish adds to an item that fits wholly

    @property
    def allowed(self) -> NDArray[np.bool_] | None:
        """Mask of the rows that category and wish leave; None if they leave all."""
        category_N = self.category.mask if self.category is not None else None
        if self.wish is None or not self.wish.rules_out:
            return category_N
        wish_N = self.wish.allowed
        return wish_N if category_N is None else wish_N & category_N


def plan_rungs(
    view: UserView, engine: Engine, *, is_over_age: bool, held_at: Source | None = None
) -> Plan:
    """Decide the rungs for one user.

    is_over_age: the view's record is older than the setting allows. held_at: the rung that holds
    the user back; no rung above it may answer.
    """
    if held_at is not None:
        return _plan_held(view, engine, held_at)
    rows = engine.catalog.rows([event.item_id for event in view.history])
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
    num_fresh = _count_fresh(view.history, record.created_at) if record is not None else 0
    return Plan(tuple(rungs), rows, record, tuple(reasons), is_impaired, num_fresh)


def _count_fresh(history: Sequence[Event], since_s: int) -> int:
    """Count the events after a time. history: oldest first."""
    num = 0
    for event in reversed(history):
        if event.timestamp <= since_s:
            break
        num += 1
    return num


def plan_popular(reason: Reason) -> Plan:
    """Return the plan of a shed request, which asks neither store nor model."""
    return Plan(rungs=(), rows=(), record=None, reasons=(reason,), is_impaired=True)


def _plan_held(view: UserView, engine: Engine, held_at: Source) -> Plan:
    rows = engine.catalog.rows([event.item_id for event in view.history])
    lost = (Reason.LOST_HISTORY,) if view.has_lost_history else ()
    rungs = {
        Source.ONLINE: (Source.ONLINE, Source.GLOBAL) if rows else (Source.GLOBAL,),
        Source.GLOBAL: (Source.GLOBAL,),
        Source.POPULAR: (),
    }[held_at]
    reasons = (Reason.HELD, *view.troubles, *lost)
    return Plan(rungs, rows, None, reasons, is_impaired=len(reasons) > 1)


def top_up(picks: Sequence[Pick], engine: Engine, wanted: Wanted) -> list[Pick]:
    """Fill up with the most popular items, the lowest rung; this takes almost no time."""
    filled = list(picks[: wanted.num_items])
    if len(filled) == wanted.num_items:
        return filled
    taken = wanted.exclude | {pick.row for pick in filled}
    popular = _popular_rows(engine, wanted)
    for row in popular:
        if len(filled) >= wanted.num_items:
            break
        if row not in taken:
            filled.append(Pick(row, None, Source.POPULAR))
    return filled


def _popular_rows(engine: Engine, wanted: Wanted) -> Sequence[int]:
    """Return the rows to fill up with, the best first."""
    category = wanted.category
    popular = engine.popular_rows if category is None else category.popular_rows
    if wanted.wish is None:
        return popular
    return wanted.wish.arrange(popular, None if category is None else category.mask)
