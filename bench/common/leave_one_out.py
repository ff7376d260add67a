"""Leave-one-out: split each user's history into visible items and one target item.

Knows the data set and the catalog. Knows nothing of models, thoughts or Redis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.catalog.held_out import has_targets, sample_in_order
from models.reasoner.think import MAX_HISTORY, UserHistory

Split = Literal["test", "valid"]


@dataclass(frozen=True)
class Case:
    """One user with one left-out item. Items are catalog rows, oldest first."""

    history: UserHistory  # the last 50 items at most
    seen: tuple[int, ...]  # all earlier items; masked in every ranking
    target: int | None  # None if the catalog lacks the item: every ranking then misses it
    num_today: int = 0  # items at the end of `seen` that share the target's day

    @property
    def is_same_day(self) -> bool:
        """Tell if the target shares the day of the item before it."""
        return self.num_today > 0

    def day_before(self) -> "Case":
        """Return the case with the history up to the day before the target: a night's state."""
        seen = self.seen[: len(self.seen) - self.num_today]
        return Case(UserHistory(self.history.user_id, seen[-MAX_HISTORY:]), seen, self.target)


def cut_histories(
    dataset: Dataset, catalog: Catalog, *, split: Split, num_users: int | None = None, seed: int = 0
) -> list[Case]:
    """Return the first `num_users` cases of a split, in a seeded random order: that of training.

    The test target is a user's last item. The validation target is the item before it. The history
    ends before the target. A smaller sample is the beginning of a larger one.
    """
    user_ids = [user_id for user_id, items in dataset.histories.items() if has_targets(items)]
    sample = sample_in_order(user_ids, num_users, seed)
    return [_cut(dataset, catalog, user_id, split) for user_id in sample]


def _cut(dataset: Dataset, catalog: Catalog, user_id: str, split: Split) -> Case:
    items = [interaction.item_id for interaction in dataset.histories[user_id]]
    at = len(items) - (1 if split == "test" else 2)
    seen = catalog.rows(items[:at])
    num_today = len(catalog.rows(items[_first_of_day(dataset, user_id, at) : at]))
    return Case(UserHistory(user_id, seen[-MAX_HISTORY:]), seen, catalog.row(items[at]), num_today)


def _first_of_day(dataset: Dataset, user_id: str, at: int) -> int:
    """Return the position of the first of the items before `at` on its day; `at` without any."""
    history = dataset.histories[user_id]
    first = at
    while dataset.has_times and first > 0 and history[first - 1].day == history[at].day:
        first -= 1
    return first


def learnt_histories(
    dataset: Dataset, catalog: Catalog, *, held_out: int = 2
) -> list[tuple[int, ...]]:
    """Return the catalog rows on which a model may be trained, per user.

    Args:
        held_out: number of last items that are left out; a user of fewer than three items has no
            targets and loses none.
    """
    found = []
    for history in dataset.histories.values():
        num = len(history) - held_out if has_targets(history) else len(history)
        found.append(catalog.rows(event.item_id for event in history[:num]))
    return found


def target_rows(cases: Sequence[Case]) -> NDArray[np.int64]:
    """Return the catalog rows of the targets, (U,); -1 where the catalog lacks the target."""
    return np.array([-1 if case.target is None else case.target for case in cases], dtype=np.int64)


def mask_seen(scores_BN: NDArray[np.floating], cases: Sequence[Case]) -> None:
    """Set the scores of each user's seen items to -inf, in place."""
    for user, case in enumerate(cases):
        scores_BN[user, list(case.seen)] = -np.inf
