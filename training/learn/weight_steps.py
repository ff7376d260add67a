"""Micro-batches: steps of the online recommender on new events, with old histories among them.

Only the positions of new events carry loss; the items before them are context. Of old histories
every position does, so that their lessons are not forgotten. Knows nothing of logs or files.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog.catalog import Catalog
from models.online.recommender import KnownNodes, OnlineRecommender
from training.history_batches import pad, random_window
from training.learn.lazy_adam import LazyAdam
from training.sid_loss import SidLoss
from training.train_online import encode_before, next_sid_loss

Ints = NDArray[np.int64]


class LearntEvents(NamedTuple):
    """The events of one user that carry loss, behind the history before them, as catalog rows."""

    rows: tuple[int, ...]  # oldest first, the history's among them
    weights: tuple[float, ...]  # of the events, which are the last rows; 0 is context alone


@dataclass(frozen=True)
class StepSettings:
    """Settings of the steps on one slice.

    They and the rates were chosen on the first 20 of 71 replayed days of Beauty.
    """

    batch_events: int = 64  # new positions of a step, about
    # New positions of a slice, about; of more, a random part is learnt, so that a slice takes
    # seconds. Counts take all.
    most_events: int = 512
    passes: int = 3  # over the new events
    old_users: float = 1.0  # old histories beside each user with new events
    old_share: float = 0.3  # of the loss
    own_after: int = 5  # events of a new item, before its prefixes learn rows of their own

    def __post_init__(self) -> None:
        if not 0 <= self.old_share < 1:
            raise ValueError(f"old_share {self.old_share}, expected 0 to below 1")

    def num_old(self, new: Sequence[LearntEvents]) -> int:
        """Return how many old histories all steps on the new events want, about."""
        num_users = min(len(new), self.most_events)
        return math.ceil(self.passes * self.old_users * num_users) if self.old_share else 0


def learn_events(
    recommender: OnlineRecommender,
    optimizer: LazyAdam,
    catalog: Catalog,
    new: Sequence[LearntEvents],
    old: Sequence[LearntEvents],
    settings: StepSettings,
    *,
    seed: int,
    unripe: Sequence[Ints] = (),
) -> list[float]:
    """Take the steps on the new events of one slice, in place; return their losses.

    Args:
        old: histories to repeat in turn, with a weight for every row; may be empty.
        seed: decides everything random.
        unripe: packed prefixes, by depth from two codes on, whose rows stay as they are.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    new = _at_most(new, settings.most_events, rng)
    loss_of = SidLoss(recommender, catalog.trie)
    window, losses = recommender.config.window, []
    turn = cycle(old)
    recommender.train()
    for _ in range(settings.passes):
        for group in _groups(new, settings.batch_events, window, rng):
            num_old = round(settings.old_users * len(group)) if settings.old_share else 0
            repeated = [_crop(events, window, rng) for events in islice(turn, num_old)]
            optimizer.zero_grad()
            loss = _loss(recommender, loss_of, catalog, group)
            if repeated:
                again, share = _loss(recommender, loss_of, catalog, repeated), settings.old_share
                loss = (1 - share) * loss + share * again
            torch.autograd.backward(loss)
            _drop_gradients(recommender, unripe)
            optimizer.step()
            losses.append(loss.item())
    recommender.eval()
    return losses


def _drop_gradients(recommender: OnlineRecommender, unripe: Sequence[Ints]) -> None:
    """Drop the gradients of the rows of prefixes; all of them are known ones."""
    tables = cast("Sequence[KnownNodes]", recommender.node_embeddings)
    for nodes, packed in zip(tables, unripe, strict=False):
        if nodes.own.weight.grad is not None:
            nodes.own.weight.grad[torch.searchsorted(nodes.known, torch.from_numpy(packed))] = 0


def _at_most(
    new: Sequence[LearntEvents], most_events: int, rng: np.random.Generator
) -> Sequence[LearntEvents]:
    """Return users drawn at random until their new positions are enough."""
    num_new = np.array([len(events.weights) for events in new])
    if num_new.sum() <= most_events:
        return new
    order = rng.permutation(len(new))
    num_drawn = 1 + int((num_new[order].cumsum() < most_events).sum())
    return [new[at] for at in order[:num_drawn].tolist()]


def _groups(
    new: Sequence[LearntEvents], batch_events: int, window: int, rng: np.random.Generator
) -> Iterator[list[LearntEvents]]:
    """Yield users in random order, cut to windows, until a group has enough new positions."""
    group: list[LearntEvents] = []
    for at in rng.permutation(len(new)).tolist():
        for part in _windows(new[at], window):
            if not any(part.weights):
                continue
            group.append(part)
            if sum(len(each.weights) for each in group) >= batch_events:
                yield group
                group = []
    if group:
        yield group


def _windows(events: LearntEvents, window: int) -> Iterator[LearntEvents]:
    """Yield the new positions at most half a window at a time, each behind its newest items."""
    rows, weights = events
    first = len(rows) - len(weights)
    for start in range(0, len(weights), max(window // 2, 1)):
        part = weights[start : start + max(window // 2, 1)]
        end = first + start + len(part)
        yield LearntEvents(rows[max(end - window, 0) : end], part)


def _crop(events: LearntEvents, window: int, rng: np.random.Generator) -> LearntEvents:
    """Cut a random window out of a history whose events all have a weight."""
    part = random_window(len(events.rows), window, rng)
    return LearntEvents(events.rows[part], events.weights[part])


def _loss(
    recommender: OnlineRecommender,
    loss_of: SidLoss,
    catalog: Catalog,
    group: Sequence[LearntEvents],
) -> Tensor:
    """Return the weighted mean loss of the events that carry any."""
    weights = [(0.0,) * (len(rows) - len(weights)) + weights for rows, weights in group]
    step = (pad([events.rows for events in group], catalog, weights),)
    states = encode_before(recommender, step)
    return next_sid_loss(loss_of, step, states, recommender.config.sizes)
