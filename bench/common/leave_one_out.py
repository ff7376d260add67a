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
from models.reasoner.think import MAX_HISTORY, UserHistory

Split = Literal["test", "valid"]
_MIN_ITEMS = 3  # as in training: a shorter history has no targets


@dataclass(frozen=True)
class Case:
    """One user with one left-out item. Items are catalog rows, oldest first."""

    history: UserHistory  # the last 50 items at most
    seen: tuple[int, ...]  # all earlier items; masked in every ranking
    target: int | None  # None if the catalog lacks the item: every ranking then misses it


def cut_histories(
    dataset: Dataset, catalog: Catalog, *, split: Split, num_users: int | None = None, seed: int = 0
) -> list[Case]:
    """Return the first `num_users` cases of a split, in a seeded random order.

    The test target is a user's last item. The validation target is the item before it. The history
    ends before the target. A smaller sample is the beginning of a larger one.
    """
    user_ids = sorted(user for user, items in dataset.histories.items() if len(items) >= _MIN_ITEMS)
    order = np.random.default_rng(seed).permutation(len(user_ids))[:num_users]
    return [_cut(dataset, catalog, user_ids[at], split) for at in order]


def _cut(dataset: Dataset, catalog: Catalog, user_id: str, split: Split) -> Case:
    items = [interaction.item_id for interaction in dataset.histories[user_id]]
    at = len(items) - (1 if split == "test" else 2)
    seen = catalog.rows(items[:at])
    return Case(UserHistory(user_id, seen[-MAX_HISTORY:]), seen, catalog.row(items[at]))


def target_rows(cases: Sequence[Case]) -> NDArray[np.int64]:
    """Return the catalog rows of the targets, (U,); -1 where the catalog lacks the target."""
    return np.array([-1 if case.target is None else case.target for case in cases], dtype=np.int64)


def mask_seen(scores_BN: NDArray[np.floating], cases: Sequence[Case]) -> None:
    """Set the scores of each user's seen items to -inf, in place."""
    for user, case in enumerate(cases):
        scores_BN[user, list(case.seen)] = -np.inf
