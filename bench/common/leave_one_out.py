"""Leave-one-out: what a row of the benchmark may see of a user, and what it has to find.

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
    """One user: at most 50 items to look at, everything seen to mask, one item to find.

    Catalog rows, oldest first; `target` is None for an item that the catalog lacks, which every
    row of the table then misses.
    """

    history: UserHistory
    seen: tuple[int, ...]
    target: int | None


def cut_histories(
    dataset: Dataset, catalog: Catalog, *, split: Split, num_users: int | None = None, seed: int = 0
) -> list[Case]:
    """The split's cases in a seeded random order, the first `num_users` of them.

    The test target is the last item of a user, the validation target the one before it; the cut is
    made before the target. A smaller sample is the beginning of a larger one.
    """
    user_ids = sorted(user for user, items in dataset.histories.items() if len(items) >= _MIN_ITEMS)
    order = np.random.default_rng(seed).permutation(len(user_ids))[:num_users]
    return [_cut(dataset, catalog, user_ids[at], split) for at in order]


def _cut(dataset: Dataset, catalog: Catalog, user_id: str, split: Split) -> Case:
    items = [interaction.item_id for interaction in dataset.histories[user_id]]
    at = len(items) - (1 if split == "test" else 2)
    rows = [catalog.row(item_id) for item_id in items[:at]]
    seen = tuple(row for row in rows if row is not None)
    return Case(UserHistory(user_id, seen[-MAX_HISTORY:]), seen, catalog.row(items[at]))


def target_rows(cases: Sequence[Case]) -> NDArray[np.int64]:
    """(U,), -1 where the catalog lacks the target."""
    return np.array([-1 if case.target is None else case.target for case in cases], dtype=np.int64)


def mask_seen(scores_BN: NDArray[np.floating], cases: Sequence[Case]) -> None:
    """Set the scores of everything a user has seen to -inf, in place."""
    for user, case in enumerate(cases):
        scores_BN[user, list(case.seen)] = -np.inf
