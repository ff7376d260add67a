"""Histories of catalog rows as steps of an epoch and as padded item numbers.

Knows rows. Knows nothing of models. An item number is the catalog row plus one; 0 is padding.
"""

# B = users, H = items of the longest history

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.common.leave_one_out import Case, cut_histories, learnt_histories
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset

WINDOW = 50  # newest items of a history that a model reads
_LONGEST = (3, 6, 12, 25)  # items of the longest history of each group but the last


class UserRows(NamedTuple):
    """History of one user, oldest first."""

    user: int  # number of the user in the data folder
    rows: Sequence[int]  # catalog rows


@dataclass(frozen=True)
class World:
    """Histories on which every contender is trained and judged."""

    catalog: Catalog
    num_users: int
    training: Sequence[UserRows]  # without the last two items; two items or more
    validation: Sequence[Case]
    test: Sequence[Case]
    user_numbers: dict[str, int]  # by user id

    @classmethod
    def load(cls, dataset: Dataset, catalog: Catalog, *, num_validation: int, seed: int) -> "World":
        """Cut the histories as `bench quality` does."""
        histories = enumerate(learnt_histories(dataset, catalog))
        return cls(
            catalog,
            len(dataset.histories),
            [UserRows(user, rows) for user, rows in histories if len(rows) > 1],
            cut_histories(dataset, catalog, split="valid", num_users=num_validation, seed=seed),
            cut_histories(dataset, catalog, split="test", seed=seed),
            {user_id: number for number, user_id in enumerate(dataset.histories)},
        )

    def histories(self, cases: Sequence[Case]) -> list[UserRows]:
        """Return the visible histories of cases, in their order."""
        return [
            UserRows(self.user_numbers[case.history.user_id], case.history.rows) for case in cases
        ]


def draw_steps(
    histories: Sequence[UserRows], *, step_users: int, rng: np.random.Generator
) -> Iterator[list[list[UserRows]]]:
    """Yield the steps of one epoch: random users, in groups of similar length.

    A history that is longer than WINDOW + 1 is cut to a random part of that length.
    """
    order = rng.permutation(len(histories))
    for first in range(0, len(order), step_users):
        chosen = [_crop(histories[at], rng) for at in order[first : first + step_users]]
        yield list(group_by_length(chosen))


def group_by_length(histories: Sequence[UserRows]) -> Iterator[list[UserRows]]:
    """Yield groups of similar length, short histories first; they keep padding small."""
    rest = sorted(histories, key=lambda history: len(history.rows))
    for longest in (*_LONGEST, WINDOW + 1):
        group = [history for history in rest if len(history.rows) <= longest]
        rest = rest[len(group) :]
        if group:
            yield group


def number_items(
    histories: Sequence[Sequence[int]], *, width: int | None = None, on_the_left: bool = False
) -> Tensor:
    """Return item numbers, (B, H); padding is on the right.

    Args:
        width: H; by default that of the longest history.
        on_the_left: pad there instead.
    """
    numbers_BH = np.zeros((len(histories), width or max(map(len, histories))), dtype=np.int64)
    for user, rows in enumerate(histories):
        own = slice(-len(rows), None) if on_the_left else slice(len(rows))
        numbers_BH[user, own] = np.asarray(rows) + 1
    return torch.from_numpy(numbers_BH)


def lengths_of(numbers_BH: Tensor) -> Tensor:
    """Return the number of items of each history, (B,)."""
    return (numbers_BH > 0).sum(dim=1)


def _crop(history: UserRows, rng: np.random.Generator) -> UserRows:
    spare = len(history.rows) - (WINDOW + 1)
    if spare <= 0:
        return history
    start = int(rng.integers(spare + 1))
    return UserRows(history.user, history.rows[start : start + WINDOW + 1])
