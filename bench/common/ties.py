"""Shuffled ties: events that share a day, in a random order.

Many events share a day, and the order inside a day is that of item ids in all published data. A
model can learn that order, and it says nothing about the user. Knows data sets only.
"""

from collections.abc import Sequence

import numpy as np

from bench.common.leave_one_out import Split
from models.catalog.dataset import Dataset, Interaction
from models.errors import InvalidDataset


def shuffle_ties(dataset: Dataset, *, seed: int, bounds: Sequence[int]) -> Dataset:
    """Shuffle the events of each user that share a day; positions and days stay sorted.

    Raises InvalidDataset for data without times.

    Args:
        bounds: positions from the end that no event crosses: -2 keeps the last two events apart.
    """
    if not dataset.has_times:
        raise InvalidDataset("interactions.parquet has no column timestamp, expected one for ties")
    rng = np.random.default_rng(seed)
    histories = {
        user_id: _shuffle(dataset.histories[user_id], bounds, rng)
        for user_id in sorted(dataset.histories)
    }
    return Dataset(histories, dataset.items)


def split_ties(dataset: Dataset, split: Split, *, seed: int) -> tuple[Dataset, Dataset]:
    """Return the data with shuffled ties for training, and the same data for the cases.

    No item that a release has learnt becomes a target: of the test split, the target is one of the
    last two items if they share a day; of the validation split, it stays. The rest of a case's
    history is shuffled with all items of its days.
    """
    held_out: tuple[int, ...] = (-2,) if split == "test" else (-2, -1)
    for_training = shuffle_ties(dataset, seed=seed, bounds=held_out)
    targets: tuple[int, ...] = (-1,) if split == "test" else (-2, -1)
    return for_training, shuffle_ties(for_training, seed=seed + 1, bounds=targets)


def _shuffle(
    events: list[Interaction], bounds: Sequence[int], rng: np.random.Generator
) -> list[Interaction]:
    run, runs = 0, []
    for at, event in enumerate(events):
        is_bound = at - len(events) in bounds
        run += at > 0 and (is_bound or event.day != events[at - 1].day)
        runs.append(run)
    order = np.lexsort((rng.random(len(events)), np.array(runs))).tolist()
    return [events[at]._replace(pos=slot.pos) for at, slot in zip(order, events, strict=True)]
