"""The loss of the online recommender: -log P(next SID | history).

There is one softmax per node on the path of the SID. Only the children of that node count,
gathered from the trie. Targets with a similar fan-out are padded together. At a depth with few
nodes all are scored in one product, and the logits of the children gathered: numbers are cheaper
to gather than embeddings.
"""

# N = targets, W = model width, L = levels, M = nodes of one depth, F = children of a node

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.catalog.trie import CatalogTrie
from models.online.recommender import OnlineRecommender

_FAN_OUTS = (4, 8, 16, 32, 1 << 40)
_FEW_NODES = 4096


class SidLoss:
    """Loss of one recommender over one catalog."""

    def __init__(self, recommender: OnlineRecommender, trie: CatalogTrie) -> None:
        self._recommender = recommender
        self._packed = [torch.from_numpy(packed) for packed in trie.packed]
        self._first_child = [torch.from_numpy(first) for first in trie.first_child]
        self._below = [int(np.prod(trie.space.sizes[depth:])) for depth in range(len(trie.packed))]

    def __call__(
        self, states_NW: Tensor, targets_N: Tensor, weights_N: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss over targets; 0 without any.

        states_NW: encoded histories before the targets. targets_N: packed SIDs. weights_N: of the
        targets in the mean; None: all weigh 1.
        """
        if not len(targets_N):
            return states_NW.sum()
        total = states_NW.new_zeros(())
        for depth, query in enumerate(self._recommender.queries):
            nodes_MW = self._recommender.embed_nodes(self._packed[depth + 1], depth + 1)
            parent_N = self._node(depth, targets_N)
            first_N = self._first_child[depth][parent_N]
            num_N = self._first_child[depth][parent_N + 1] - first_N
            at_N = self._node(depth + 1, targets_N) - first_N
            total = total + _ragged_loss(
                query(states_NW), nodes_MW, first_N, num_N, at_N, weights_N
            )
        return total / (len(targets_N) if weights_N is None else weights_N.sum())

    def _node(self, depth: int, targets_N: Tensor) -> Tensor:
        return torch.searchsorted(self._packed[depth], targets_N // self._below[depth])


def _ragged_loss(
    queries_NW: Tensor,
    nodes_MW: Tensor,
    first_N: Tensor,
    num_N: Tensor,
    at_N: Tensor,
    weights_N: Tensor | None,
) -> Tensor:
    """Sum -log P(target | siblings) over targets, each times its weight.

    first_N, num_N: the siblings are nodes `first` to `first + num - 1`. at_N: place of the target
    among them.
    """
    logits_NM = queries_NW @ nodes_MW.T if len(nodes_MW) <= _FEW_NODES else None
    total, fewest = queries_NW.new_zeros(()), 0
    for most in _FAN_OUTS:
        chosen = ((num_N > fewest) & (num_N <= most)).nonzero().squeeze(-1)
        fewest = most
        if not len(chosen):
            continue
        node_NF, is_padding_NF = _siblings(first_N[chosen], num_N[chosen])
        if logits_NM is not None:
            logits_NF = logits_NM[chosen].gather(1, node_NF)
        else:
            logits_NF = (nodes_MW[node_NF] @ queries_NW[chosen].unsqueeze(-1)).squeeze(-1)
        logits_NF = logits_NF.masked_fill(is_padding_NF, -torch.inf)
        if weights_N is None:
            total = total + functional.cross_entropy(logits_NF, at_N[chosen], reduction="sum")
        else:
            loss_N = functional.cross_entropy(logits_NF, at_N[chosen], reduction="none")
            total = total + loss_N @ weights_N[chosen]
    return total


def _siblings(first_N: Tensor, num_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the siblings as node numbers, and a mask of the padding: (N, F) each."""
    place_F = torch.arange(int(num_N.max()))
    last_N1 = (num_N - 1).unsqueeze(1)
    return first_N.unsqueeze(1) + torch.minimum(place_F, last_N1), place_F > last_N1
