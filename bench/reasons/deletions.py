"""Deletion of one item from a history: how far a served item falls without it.

A user without an item is a user of the store like any other, with a night and answers of its own.
"""

# U = users

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.paired_differences import Differences
from bench.quality.ranking.rank_metrics import bootstrap_named
from bench.reasons.because_items import BECAUSE, CHOICES, choose
from bench.reasons.explained import NUM_SERVED, Explained
from bench.reasons.product_run import Answers
from models.catalog.catalog import Catalog
from models.catalog.dataset import Interaction

_NUM_LOOKED_AT = 100  # of a list without the item, the most that one answer holds


@dataclass(frozen=True)
class Deletion:
    """One user, one served item, and the items to delete in turn."""

    user_id: str
    served_id: str
    score: float
    deleted: dict[str, str]  # by choice: an item of the history

    def variant(self, choice: str) -> str:
        """Return the id of the user without the item."""
        return f"{self.user_id} without {self.deleted[choice]}"


class Fall:
    """Fall of the served items of all users, by choice of the deleted item."""

    def __init__(self) -> None:
        self.drop: dict[str, list[float]] = {choice: [] for choice in CHOICES}  # nats, at least
        self.rank: dict[str, list[float]] = {choice: [] for choice in CHOICES}

    def add(self, choice: str, deletion: Deletion, listed: Sequence[dict[str, Any]]) -> None:
        """Add the list of the user without an item."""
        found = {item["item_id"]: (item["rank"], item["score"]) for item in listed}
        rank, score = found.get(deletion.served_id, (np.inf, listed[-1]["score"]))
        self.drop[choice].append(deletion.score - score)
        self.rank[choice].append(rank)

    def columns(self, choice: str) -> dict[str, NDArray[np.float64]]:
        rank_U = np.array(self.rank[choice])
        return {
            "drop": np.array(self.drop[choice]),
            "left_ten": (rank_U > NUM_SERVED).astype(np.float64),
            "left_hundred": (rank_U > _NUM_LOOKED_AT).astype(np.float64),
        }


def plan_deletions(found: Sequence[Explained], catalog: Catalog, *, seed: int) -> list[Deletion]:
    """Draw a served item of each user with two items or more in the history, and a reason."""
    rng = np.random.default_rng(seed)
    planned = []
    for own in found:
        reasoned = [item for item in own.items if item["because"]]
        if len(set(own.rows)) < 2 or not reasoned:
            continue
        item = reasoned[rng.integers(len(reasoned))]
        (because,) = catalog.rows(item["because"][:1])
        chosen = choose(own, because, rng)
        deleted = {name: catalog.item_ids[row] for name, row in chosen.items()}
        planned.append(Deletion(own.user_id, item["item_id"], item["score"], deleted))
    return planned


def variants(
    planned: Sequence[Deletion], histories: Mapping[str, Sequence[Interaction]]
) -> dict[str, list[Interaction]]:
    """Return the histories of all users without an item, by the id of such a user."""
    return {
        each.variant(choice): [
            event for event in histories[each.user_id] if event.item_id != each.deleted[choice]
        ]
        for each in planned
        for choice in CHOICES
    }


def measure(
    planned: Sequence[Deletion], answers: Answers, *, on_progress: Callable[[int], None]
) -> Fall:
    """Ask for every user without an item; those without a record are left out, as all three."""
    fall = Fall()
    for number, each in enumerate(planned, start=1):
        listed = {
            choice: answers.ask(
                each.variant(choice), n=_NUM_LOOKED_AT, exclude=[each.deleted[choice]]
            )
            for choice in CHOICES
        }
        for choice, answer in listed.items():
            if answer is not None and None not in listed.values():
                fall.add(choice, each, answer["items"])
        on_progress(number)
    return fall


def deletion_rows(fall: Fall, *, seed: int) -> tuple[list[dict[str, Any]], Differences]:
    """Return one row per choice, and the paired differences of the reason and the others."""
    columns = {
        (choice, metric): values_U
        for choice in CHOICES
        for metric, values_U in fall.columns(choice).items()
    }
    for choice in CHOICES:
        if choice != BECAUSE:
            for metric, values_U in fall.columns(choice).items():
                name = f"{BECAUSE} minus {choice}"
                columns[name, metric] = columns[BECAUSE, metric] - values_U
    rows: dict[str, dict[str, Any]] = {}
    gains: Differences = {}
    for (name, metric), interval in bootstrap_named(columns, seed=seed).items():
        if name in CHOICES:
            rows.setdefault(name, {"name": f"delete_{name}"}).update(interval.columns(metric))
        else:
            gains.setdefault(name, {})[metric] = interval
    return list(rows.values()), gains
