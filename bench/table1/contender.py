"""Contract of a model that stands in Table 1, and how its ranking is judged.

Every contender gives a loss for histories and scores for histories. Masks, ranks and metrics are
those of `bench quality`.
"""

# B = users of a chunk, U = users, N = catalog rows

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.common.leave_one_out import Case, mask_seen, target_rows
from bench.quality.ranking.rank_metrics import ndcg_at, rank_targets, recall_at
from bench.table1.padded_rows import UserRows, World

CHUNK_USERS = 256
_TOP = 10


class Loss(NamedTuple):
    """Mean loss of some targets."""

    mean: Tensor
    num_targets: int


class Contender(Protocol):
    """A next-item model."""

    @property
    def net(self) -> nn.Module:
        """The network that is trained and kept."""

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        """Return the loss of histories of similar length, each of two items or more."""

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        """Score every catalog row for histories that are not empty: (B, N).

        -inf is an item that the model does not rank.
        """


class Ranks(NamedTuple):
    """Ranks of the targets of a split."""

    rank_U: NDArray[np.float64]  # infinity if the target was not ranked
    seconds: float

    @property
    def recall(self) -> float:
        """Recall at 10."""
        return float(recall_at(self.rank_U, _TOP).mean())

    @property
    def ndcg(self) -> float:
        """NDCG at 10."""
        return float(ndcg_at(self.rank_U, _TOP).mean())


@torch.no_grad()
def rank_cases(contender: Contender, world: World, cases: Sequence[Case]) -> Ranks:
    """Rank the target of each case in the whole catalog, without the items of the history.

    A user without a known item gets no ranking.
    """
    started = time.process_time()
    contender.net.eval()
    rank_U = np.full(len(cases), np.inf)
    order = sorted(
        (at for at, case in enumerate(cases) if case.history.rows),
        key=lambda at: len(cases[at].history.rows),
    )
    for first in range(0, len(order), CHUNK_USERS):
        chosen = order[first : first + CHUNK_USERS]
        chunk = [cases[at] for at in chosen]
        scores_BN = contender.score(world.histories(chunk)).float().numpy()
        mask_seen(scores_BN, chunk)
        rank_U[chosen] = rank_targets(scores_BN, target_rows(chunk))
    return Ranks(rank_U, time.process_time() - started)
