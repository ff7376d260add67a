"""The leave-one-out split.

The last item of a user is the test target, the one before it the validation target; the rest is for
training. Training texts, co-occurrence and popularity use no target. After the epochs are chosen, a
model may be trained once more on the validation targets too, or on everything.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.catalog.held_out import has_targets, sample_in_order
from models.errors import InvalidDataset
from models.release.release import Learns
from training.event_types import TypeWeights, weight_of

MIN_USERS = 200  # with three items or more

_ALL_EQUAL: TypeWeights = {}
_NUM_LEFT_OUT = {Learns.HELD_OUT: 2, Learns.NOT_THE_TEST: 1, Learns.EVERYTHING: 0}


@dataclass(frozen=True)
class UserSplit:
    """Split of one user, without the test target."""

    user_id: str
    train: tuple[str, ...]  # item ids, oldest first
    valid: str | None  # item id of the validation target; None for a short history
    weights: tuple[float, ...] | None = None  # of the training items; None: all weigh 1
    valid_weight: float = 1.0  # of the validation target

    @property
    def has_target(self) -> bool:
        """Tell if a validation target can be asked for: one of weight 0 cannot."""
        return self.valid is not None and self.valid_weight > 0


@dataclass(frozen=True)
class Split:
    """Splits of all users, without test targets."""

    users: tuple[UserSplit, ...]

    @cached_property
    def popularity(self) -> dict[str, float]:
        """Training interactions per item, each with the weight of its type."""
        counted: dict[str, float] = defaultdict(int)
        for user in self.users:
            weights = user.weights or (1,) * len(user.train)
            for item, weight in zip(user.train, weights, strict=True):
                counted[item] += weight
        return dict(counted)

    @property
    def num_train(self) -> int:
        return sum(len(user.train) for user in self.users)

    @property
    def weights(self) -> list[tuple[float, ...]] | None:
        """Return the weights of the items of `training_histories`; None where all are 1."""
        found = [user.weights for user in self.users if user.train and user.weights is not None]
        return found or None


def split_dataset(
    dataset: Dataset, learns: Learns = Learns.HELD_OUT, types: TypeWeights = _ALL_EQUAL
) -> Split:
    """Split every history. One with fewer than three items is used for training only.

    Only the held-out split has validation targets.
    """
    users = []
    for user_id, history in dataset.histories.items():
        items = tuple(interaction.item_id for interaction in history)
        num_left_out = _NUM_LEFT_OUT[learns] if has_targets(items) else 0
        has_valid = num_left_out == _NUM_LEFT_OUT[Learns.HELD_OUT]
        num_train = len(items) - num_left_out
        user = UserSplit(user_id, items[:num_train], items[-2] if has_valid else None)
        if types:
            weights = tuple(weight_of(types, interaction.type) for interaction in history)
            user = replace(
                user, weights=weights[:num_train], valid_weight=weights[-2] if has_valid else 1.0
            )
        users.append(user)
    return Split(tuple(users))


def check_enough(split: Split, data: Path) -> None:
    """Raise InvalidDataset for too few users to choose a number of epochs.

    Without them a model would be published that learnt nothing, or only its training rows.
    """
    num = sum(user.has_target for user in split.users)
    if num < MIN_USERS:
        asked = "" if split.weights is None else ", the last but one of a type above weight 0"
        raise InvalidDataset(
            f"{data}: {num:,} of {len(split.users):,} users have three items or more{asked}, "
            f"expected at least {MIN_USERS}: their last items choose and judge the models"
        )


def sample_users(split: Split, count: int, seed: int) -> list[UserSplit]:
    """Sample `count` users with a validation target; the seed determines the sample."""
    users = [user for user in split.users if user.has_target and user.train]
    return sample_in_order(users, count, seed)


def unseen_histories(catalog: Catalog, split: Split, share: float, seed: int) -> list[list[int]]:
    """Return training items and validation item of a share of the users, as catalog rows.

    They are the last users in the seeded order: `sample_users` takes the first ones.
    """
    num = sum(user.has_target for user in split.users)
    users = sample_users(split, num, seed)
    rows = {item: row for row, item in enumerate(catalog.item_ids)}
    return [
        [rows[item] for item in (*user.train, user.valid) if item is not None]
        for user in users[round((1 - share) * len(users)) :]
    ]


def training_histories(catalog: Catalog, split: Split) -> list[list[int]]:
    """Return the training items of each user as catalog rows."""
    rows = {item: row for row, item in enumerate(catalog.item_ids)}
    return [[rows[item] for item in user.train] for user in split.users if user.train]
