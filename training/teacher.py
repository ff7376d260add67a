"""A teacher of the online recommender, and the loss of learning what it expects next.

The teacher is a SASRec of the same histories. Its softmax is over the whole catalog, so it learns
from every item what another item is not; a softmax of the tree learns that from siblings alone.
The student that learns both targets ranks better than either.
"""

# N = catalog rows, M = tree nodes of one depth, P = positions, W = model width, L = levels

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.baselines.sasrec import SasRec
from models.catalog.catalog import Catalog
from models.online.recommender import OnlineRecommender
from training.history_batches import Step, weights_of

_LARGEST_LOGIT = 60.0  # its exponential, summed over a million nodes, is finite in float32


class TeacherLoss:
    """Cross-entropy between a teacher and the online recommender, over all items."""

    def __init__(
        self, teacher: SasRec, recommender: OnlineRecommender, catalog: Catalog, positions: int
    ) -> None:
        self._teacher = teacher.eval()
        self._recommender = recommender
        self._positions = positions
        trie = catalog.trie
        self._packed = [torch.from_numpy(packed) for packed in trie.packed[1:]]
        # parent_M[d]: the parent, at depth d, of each node of depth d + 1.
        self._parent_M = [
            torch.from_numpy(np.repeat(np.arange(len(first) - 1), np.diff(first)))
            for first in trie.first_child
        ]
        self._leaf_N = torch.from_numpy(np.repeat(np.arange(len(trie)), np.diff(catalog.first_row)))

    def __call__(self, step: Step, states: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean loss over some positions that have an item before them.

        states: encoded histories before each item of the batches of `step`, as (B, H, W).
        """
        later = [batch.is_learnt()[:, 1:] for batch in step]
        num_later = sum(int(is_later_BH.sum()) for is_later_BH in later)
        if not num_later:
            return torch.zeros(())
        chosen_P = torch.randperm(num_later)[: self._positions]
        students, teachers = [], []
        for batch, states_BHW, is_later_BH in zip(step, states, later, strict=True):
            if batch.rows_BH.shape[1] == 1:
                continue
            students.append(states_BHW[:, 1:][is_later_BH])
            with torch.no_grad():
                teachers.append(self._teacher(batch.rows_BH[:, :-1])[is_later_BH])
        target_MP = self._leaf_targets(torch.cat(teachers)[chosen_P])
        total: float | Tensor = len(chosen_P)
        weights_N = weights_of(step, later)
        if weights_N is not None:
            target_MP, total = target_MP * weights_N[chosen_P], weights_N[chosen_P].sum()
        return self._cross_entropy(torch.cat(students)[chosen_P], target_MP) / total

    @torch.no_grad()
    def _leaf_targets(self, states_PW: Tensor) -> Tensor:
        """Return the teacher's probability of each leaf: (M, P)."""
        probability_PN = functional.softmax(self._teacher.logits(states_PW), dim=1)
        target_MP = states_PW.new_zeros(len(self._packed[-1]), len(states_PW))
        return target_MP.index_add_(0, self._leaf_N, probability_PN.T)

    def _cross_entropy(self, states_PW: Tensor, target_MP: Tensor) -> Tensor:
        """Sum the cross-entropies of the softmaxes at all nodes, from the leaves up."""
        total = states_PW.new_zeros(())
        for depth in range(len(self._packed) - 1, -1, -1):
            nodes_MW = self._recommender.embed_nodes(self._packed[depth], depth + 1)
            logits_MP = nodes_MW @ self._recommender.queries[depth](states_PW).T
            parent_M = self._parent_M[depth]
            above_MP = _sum_children(target_MP, parent_M)
            total = total + _sibling_loss(logits_MP, target_MP, above_MP, parent_M)
            target_MP = above_MP
        return total


class _SiblingLoss(torch.autograd.Function):
    """Sum of -target * log(softmax among siblings), over all nodes of a depth and positions.

    By hand, for the memory of the backward pass: the gradient is made in the forward pass, and
    nothing else of that size is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_MP: Tensor, target_MP: Tensor, above_MP: Tensor, parent_M: Tensor
    ) -> Tensor:
        logits_MP = logits_MP.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        gradient_MP = logits_MP.exp()
        sums_MP = _sum_children(gradient_MP, parent_M)
        loss = (above_MP * sums_MP.log()).sum() - (target_MP * logits_MP).sum()
        gradient_MP.mul_((above_MP / sums_MP)[parent_M]).sub_(target_MP)
        ctx.save_for_backward(gradient_MP)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_MP,) = cast("tuple[Tensor]", ctx.saved_tensors)
        return gradient_MP * gradients[0], None, None, None


def _sibling_loss(
    logits_MP: Tensor, target_MP: Tensor, above_MP: Tensor, parent_M: Tensor
) -> Tensor:
    apply = cast("Callable[..., Tensor]", _SiblingLoss.apply)
    return apply(logits_MP, target_MP, above_MP, parent_M)


def _sum_children(values_MP: Tensor, parent_M: Tensor) -> Tensor:
    """Sum the values of the children of each node; the last parent has children."""
    sums = values_MP.new_zeros(int(parent_M[-1]) + 1, values_MP.shape[1])
    return sums.index_add_(0, parent_M, values_MP)
