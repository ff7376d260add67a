"""The leave-one-out split.

The last item of a user is the test target, the one before it the validation target; the rest is for
training. Training texts, co-occurrence and popularity use no target. After the epochs are chosen, a
model may be trained once more on the validation targets too, or on everything.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.catalog.held_out import has_targets, sample_in_order
from models.errors import InvalidDataset
from models.release.release import Learns

MIN_USERS = 200  # with three items or more

_NUM_LEFT_OUT = {Learns.HELD_OUT: 2, Learns.NOT_THE_TEST: 1, Learns.EVERYTHING: 0}


@dataclass(frozen=True)
class UserSplit:
    """Split of one user, without the test target."""

    user_id: str
    train: tuple[str, ...]  # item ids, oldest first
    valid: str | None  # item id of the validation target; None for a short history


@dataclass(frozen=True)
class Split:
    """Splits of all users, without test targets."""

    users: tuple[UserSplit, ...]

    @cached_property
    def popularity(self) -> dict[str, int]:
        """Training interactions per item."""
        return dict(Counter(item for user in self.users for item in user.train))

    @property
    def num_train(self) -> int:
        return sum(len(user.train) for user in self.users)


def split_dataset(dataset: Dataset, learns: Learns = Learns.HELD_OUT) -> Split:
    """Split every history. One with fewer than three items is used for training only.

    Only the held-out split has validation targets.
    """
    users = []
    for user_id, history in dataset.histories.items():
        items = tuple(interaction.item_id for interaction in history)
        num_left_out = _NUM_LEFT_OUT[learns] if has_targets(items) else 0
        valid = items[-2] if num_left_out == _NUM_LEFT_OUT[Learns.HELD_OUT] else None
        users.append(UserSplit(user_id, items[: len(items) - num_left_out], valid))
    return Split(tuple(users))


def check_enough(split: Split, data: Path) -> None:
    """Raise InvalidDataset for too few users to choose a number of epochs.

    Without them a model would be published that learnt nothing, or only its training rows.
    """
    num = sum(user.valid is not None for user in split.users)
    if num < MIN_USERS:
        raise InvalidDataset(
            f"{data}: {num:,} of {len(split.users):,} users have three items or more, expected at "
            f"least {MIN_USERS}: their last items choose and judge the models"
        )


def sample_users(split: Split, count: int, seed: int) -> list[UserSplit]:
    """Sample `count` users with a validation target; the seed determines the sample."""
    users = [user for user in split.users if user.valid is not None and user.train]
    return sample_in_order(users, count, seed)


def training_histories(catalog: Catalog, split: Split) -> list[list[int]]:
    """Return the training items of each user as catalog rows."""
    rows = {item: row for row, item in enumerate(catalog.item_ids)}
    return [[rows[item] for item in user.train] for user in split.users if user.train]
