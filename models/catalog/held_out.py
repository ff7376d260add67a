"""Users with held-out targets, and the order in which all tiers sample them.

Training chooses a model by a sample of these users, and an evaluation judges it: with the same
seed both take the same users. Knows nothing of targets or models.
"""

from collections.abc import Sequence, Sized
from typing import TypeVar

import numpy as np

_MIN_ITEMS = 3  # one to learn from, a validation target and a test target

User = TypeVar("User")


def has_targets(history: Sized) -> bool:
    """Tell if a user's history is long enough for two targets."""
    return len(history) >= _MIN_ITEMS


def sample_in_order(users: Sequence[User], count: int | None, seed: int) -> list[User]:
    """Sample `count` users, or all, in a seeded random order.

    A smaller sample is the beginning of a larger one.

    Args:
        users: with targets, in the order of the data set.
    """
    order = np.random.default_rng(seed).permutation(len(users))
    return [users[at] for at in order[:count]]
