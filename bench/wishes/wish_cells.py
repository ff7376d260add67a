"""One cell of the table: the same wish of many users, and the share of served items that fit."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bench.common.leave_one_out import Case
from bench.common.results import Row
from bench.wishes.judges import Judge, Judges
from bench.wishes.wished_system import WishedSystem
from models.catalog.catalog import Catalog

MODES = ("fused", "strict", "union")
TOP = 10
_PATIENCE_S = 2.0  # for another answer
_AT_ONCE = 8  # users


class Asked(NamedTuple):
    """A user, and the turns of a wish; without a turn the user has none."""

    case: Case
    texts: tuple[str, ...]
    judges: Judges

    @property
    def user_id(self) -> str:
        return self.case.history.user_id


class Served(NamedTuple):
    """Rows of the catalog that were served to one user, by mode."""

    asked: Asked
    rows: Mapping[str, tuple[int, ...]]


def post(system: WishedSystem, asked: Asked) -> None:
    """Post the turns of a wish in place of the wish before; between two turns the user looks."""
    system.post(asked.user_id, {"forget_wish": True, "instruction": next(iter(asked.texts), None)})
    for text in asked.texts[1:]:
        system.recommend(asked.user_id, "fused", TOP)
        system.post(asked.user_id, {"instruction": text})


def post_and_serve(system: WishedSystem, catalog: Catalog, asked: Sequence[Asked]) -> list[Served]:
    """Post every wish, and ask for its user in every mode."""

    def one(each: Asked) -> Served:
        post(system, each)
        return _serve(system, catalog, each)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, asked))


def serve(system: WishedSystem, catalog: Catalog, asked: Sequence[Asked]) -> list[Served]:
    """Ask for every user in every mode."""
    return [_serve(system, catalog, each) for each in asked]


def _serve(system: WishedSystem, catalog: Catalog, asked: Asked) -> Served:
    found = {mode: system.recommend(asked.user_id, mode, TOP) for mode in MODES}
    return Served(asked, {mode: catalog.rows(items) for mode, items in found.items()})


def time_changes(system: WishedSystem, asked: Sequence[Asked]) -> list[float]:
    """Return the seconds from each POST to the first answer that is another one, one by one.

    A user whose answer stays the same within the patience is left out.
    """
    delays = []
    for each in asked:
        system.post(each.user_id, {"forget_wish": True})
        before = system.recommend(each.user_id, "fused", TOP)
        began_at = time.monotonic()
        system.post(each.user_id, {"instruction": each.texts[0]})
        while time.monotonic() - began_at < _PATIENCE_S:
            if system.recommend(each.user_id, "fused", TOP) != before:
                delays.append(time.monotonic() - began_at)
                break
    return delays


def describe(name: str, served: Sequence[Served]) -> dict[str, str | int | float]:
    """Return a row: shares by both judges, and recall of the next item, by mode."""
    row: dict[str, str | int | float] = {"name": name, "users": len(served)}
    for mode in MODES:
        row[mode] = _mean(served, mode, lambda each: each.asked.judges.by_category)
        row[f"{mode}_title"] = _mean(served, mode, lambda each: each.asked.judges.by_title)
        hits = [each.asked.case.target in each.rows[mode] for each in served]
        row[f"recall@10_{mode}"] = float(np.mean(hits))
    return row


def mean_row(name: str, rows: Sequence[Row]) -> Row:
    """Return the mean of some rows."""
    columns = [column for column in rows[0] if column not in ("name", "users")]
    means = {column: float(np.mean([float(row[column]) for row in rows])) for column in columns}
    return {"name": name, "users": rows[0]["users"], **means}


def _mean(served: Sequence[Served], mode: str, judge_of: Callable[[Served], Judge]) -> float:
    shares = [
        float(np.mean([judge_of(each)(row) for row in each.rows[mode]]))
        for each in served
        if each.rows[mode]
    ]
    return float(np.mean(shares)) if shares else 0.0
