"""Batches of histories: random users for each step, encoded in groups of similar length.

A step over users drawn at random learns better than a step over users with histories of one length.
The groups keep padding small.
"""

# B = users, H = items of the longest history, L = levels

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog.catalog import Catalog

_LONGEST = (3, 6, 12, 25)  # items of the longest history of each group but the last


class Batch(NamedTuple):
    """Histories, padded at the end."""

    sids_BHL: Tensor
    lengths_B: Tensor  # items of each history
    rows_BH: Tensor  # catalog rows
    weights_BH: Tensor | None = None  # of items in the loss, 0 for padding; None: all weigh 1

    def is_real(self) -> Tensor:
        """Return a mask (B, H): True for an item, False for padding."""
        return torch.arange(self.rows_BH.shape[1]) < self.lengths_B.unsqueeze(1)

    def is_learnt(self) -> Tensor:
        """Return a mask (B, H): True for an item that carries loss."""
        return self.is_real() if self.weights_BH is None else self.weights_BH > 0


Step = tuple[Batch, ...]  # the users of one step, in groups


def steps(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    *,
    window: int,
    batch_users: int,
    rng: np.random.Generator,
    weights: Sequence[Sequence[float]] | None = None,
) -> Iterator[Step]:
    """Yield the steps of one epoch: each history once, cut to one random window.

    weights: of the items of each history; None: all weigh 1.
    """
    order = rng.permutation(len(histories))
    for first in range(0, len(order), batch_users):
        chosen = order[first : first + batch_users].tolist()
        parts = [random_window(len(histories[at]), window, rng) for at in chosen]
        crops = [histories[at][part] for at, part in zip(chosen, parts, strict=True)]
        cut = weights and [weights[at][part] for at, part in zip(chosen, parts, strict=True)]
        yield tuple(
            pad([crops[at] for at in group], catalog, cut and [cut[at] for at in group])
            for group in _groups(crops)
        )


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
    return history[random_window(len(history), window, rng)]


def random_window(num_items: int, window: int, rng: np.random.Generator) -> slice:
    """Return the places of a random window; those of all items if they are no more."""
    if num_items <= window:
        return slice(0, num_items)
    start = int(rng.integers(num_items - window + 1))
    return slice(start, start + window)


def pad(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    weights: Sequence[Sequence[float]] | None = None,
) -> Batch:
    """Pad histories of catalog rows to one length, and the weights of their items."""
    lengths = np.array([len(history) for history in histories])
    rows = _padded(histories, np.zeros((len(histories), lengths.max()), dtype=np.int64))
    sids = catalog.sids[rows].astype(np.int64)
    weights_BH = None
    if weights is not None:
        weights_BH = torch.from_numpy(_padded(weights, np.zeros(rows.shape, dtype=np.float32)))
    return Batch(
        torch.from_numpy(sids), torch.from_numpy(lengths), torch.from_numpy(rows), weights_BH
    )


def _padded(values: Sequence[Sequence[float]], room_BH: NDArray[Any]) -> NDArray[Any]:
    for user, of_user in enumerate(values):
        room_BH[user, : len(of_user)] = of_user
    return room_BH


def weights_of(step: Step, is_chosen: Sequence[Tensor]) -> Tensor | None:
    """Return the weights of the chosen items of a step, (N,); None where all weigh 1.

    is_chosen: a mask for each batch, over its last columns.
    """
    found = [
        batch.weights_BH[:, batch.weights_BH.shape[1] - mask.shape[1] :][mask]
        for batch, mask in zip(step, is_chosen, strict=True)
        if batch.weights_BH is not None
    ]
    return torch.cat(found) if found else None


def _groups(histories: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the places of histories of similar length, shortest first."""
    rest = sorted(range(len(histories)), key=lambda at: len(histories[at]))
    for longest in _LONGEST:
        group = [at for at in rest if len(histories[at]) <= longest]
        rest = rest[len(group) :]
        if group:
            yield group
    if rest:
        yield rest
