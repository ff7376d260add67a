"""Batches of histories: random users for each step, encoded in groups of similar length.

A step over users drawn at random learns better than a step over users with histories of one length.
The groups keep padding small.
"""

# B = users, H = items of the longest history, L = levels

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.catalog.catalog import Catalog

_LONGEST = (3, 6, 12, 25)  # items of the longest history of each group but the last


class Batch(NamedTuple):
    """Histories, padded at the end."""

    sids_BHL: Tensor
    lengths_B: Tensor  # items of each history
    rows_BH: Tensor  # catalog rows

    def is_real(self) -> Tensor:
        """Return a mask (B, H): True for an item, False for padding."""
        return torch.arange(self.rows_BH.shape[1]) < self.lengths_B.unsqueeze(1)


Step = tuple[Batch, ...]  # the users of one step, in groups


def steps(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    *,
    window: int,
    batch_users: int,
    rng: np.random.Generator,
) -> Iterator[Step]:
    """Yield the steps of one epoch: each history once, cut to one random window."""
    order = rng.permutation(len(histories))
    for first in range(0, len(order), batch_users):
        chosen = order[first : first + batch_users].tolist()
        crops = [crop(histories[at], window, rng) for at in chosen]
        yield tuple(pad(group, catalog) for group in _groups(crops))


def length_batches(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    *,
    window: int,
    batch_items: int,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Yield the batches of one epoch in random order, each of histories of similar length.

    batch_items: items of a batch at most, padding included.
    """
    crops = [crop(history, window, rng) for history in histories]
    order = sorted(range(len(crops)), key=lambda at: (len(crops[at]), rng.random()))
    groups: list[list[int]] = [[]]
    for at in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(crops[at]) > batch_items:
            groups.append([])
        groups[-1].append(at)
    for group in rng.permutation(len(groups)).tolist():
        yield pad([crops[at] for at in groups[group]], catalog)


def crop(history: Sequence[int], window: int, rng: np.random.Generator) -> Sequence[int]:
    """Cut a random window out of a longer history."""
    if len(history) <= window:
        return history
    start = int(rng.integers(len(history) - window + 1))
    return history[start : start + window]


def pad(histories: Sequence[Sequence[int]], catalog: Catalog) -> Batch:
    """Pad histories of catalog rows to one length."""
    lengths = np.array([len(history) for history in histories])
    rows = np.zeros((len(histories), lengths.max()), dtype=np.int64)
    for user, history in enumerate(histories):
        rows[user, : len(history)] = history
    sids = catalog.sids[rows].astype(np.int64)
    return Batch(torch.from_numpy(sids), torch.from_numpy(lengths), torch.from_numpy(rows))


def _groups(histories: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    rest = sorted(histories, key=len)
    for longest in _LONGEST:
        group = [history for history in rest if len(history) <= longest]
        rest = rest[len(group) :]
        if group:
            yield group
    if rest:
        yield rest
