"""The online recommender: a causal transformer over the items of a history, and a softmax at every
node of the SID tree.

The history has one row per *item*, so an event adds one row. A softmax covers the children of one
prefix: the logit of a child is the product of a query and the child's embedding. The query is read
from the history's last row, once a level. So a node costs no layer, and no probability goes to
SIDs that do not exist. An item's embedding in a history is the sum of the embeddings of the nodes
on its path, times a constant. The same embeddings give its probability.
"""

# B = users, H = history rows (start + items), L = levels, N = heads, E = head width,
# W = model width, M = nodes of one depth

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.online.shape import BIAS_ROWS, UNKNOWN_SID, RecommenderConfig


class OnlineRecommender(nn.Module):
    """P(SID | history), factorised code by code over the SIDs of a catalog (Eq. 1)."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.code_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in config.sizes)
        self.node_embeddings = nn.ModuleList(KnownNodes(num, width) for num in config.known_nodes)
        self.start = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.queries = nn.ModuleList(nn.Linear(width, width) for _ in config.sizes)
        self.item_dropout = _Dropout(config.item_dropout)
        self.apply(_initialise)
        for layer in cast("Sequence[Layer]", self.layers):
            layer.prefer_the_recent()

    @classmethod
    def knowing(
        cls, config: RecommenderConfig, packed: Sequence[NDArray[np.int64]]
    ) -> "OnlineRecommender":
        """Make an untrained recommender; seed torch first.

        Args:
            packed: the prefixes with an embedding of their own, by depth: packed prefixes of two
                codes, of three, and so on; each array sorted and distinct.
        """
        recommender = cls(replace(config, known_nodes=tuple(map(len, packed))))
        for nodes, known in zip(recommender.node_embeddings, packed, strict=True):
            cast("KnownNodes", nodes).known[:-1] = torch.from_numpy(known)
        return recommender

    def encode(self, items_BHW: Tensor) -> Tensor:
        """Encode embedded histories, oldest item first and padded on the right.

        Returns:
            (B, H + 1, W). Row h depends on the first h items alone and predicts the next one.
        """
        start_B1W = self.start.expand(len(items_BHW), 1, -1)
        x_BHW = self.item_dropout(torch.cat([start_B1W, items_BHW], dim=1))
        index_H = torch.arange(x_BHW.shape[1])
        distance_HH = index_H.unsqueeze(1) - index_H.unsqueeze(0)
        for layer in cast("Sequence[Layer]", self.layers):
            x_BHW = layer(x_BHW, distance_HH)
        normed: Tensor = self.norm(x_BHW)
        return normed

    def embed_items(self, sids: Tensor) -> Tensor:
        """Embed items for a history: SIDs (..., L) to (..., W)."""
        packed = sids[..., 0]
        total: Tensor = self.code_embeddings[0](packed)
        for level in range(1, self.config.levels):
            packed = packed * self.config.sizes[level] + sids[..., level]
            total = total + self.embed_nodes(packed, level + 1)
        return total * self.config.item_scale

    def embed_nodes(self, packed: Tensor, depth: int) -> Tensor:
        """Embed nodes of one depth: packed prefixes (...) to (..., W)."""
        embedded: Tensor = self.code_embeddings[depth - 1](packed % self.config.sizes[depth - 1])
        if depth > 1:
            embedded = embedded + self.node_embeddings[depth - 2](packed)
        return embedded


class KnownNodes(nn.Module):
    """Embeddings of the known prefixes of one depth; zero for all others."""

    def __init__(self, num_known: int, width: int) -> None:
        super().__init__()
        self.own = nn.Embedding(num_known + 1, width, padding_idx=num_known)
        self.known = nn.Buffer(torch.full((num_known + 1,), UNKNOWN_SID))

    def forward(self, packed: Tensor) -> Tensor:
        at = torch.searchsorted(self.known, packed)
        at = torch.where(self.known[at] == packed, at, len(self.known) - 1)
        embedded: Tensor = self.own(at)
        return embedded


class Layer(nn.Module):
    """Attention with a learned bias by distance, then an MLP."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.num_heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.bias = nn.Embedding(BIAS_ROWS, config.heads)
        self.max_distance = config.max_distance
        self.mlp = _Mlp(config)
        self.dropout = _Dropout(config.dropout)

    def forward(self, x_BHW: Tensor, distance_HH: Tensor) -> Tensor:
        q, k, v = (_split(part, self.num_heads) for part in self.qkv(self.norm(x_BHW)).chunk(3, -1))
        bias_HHN: Tensor = self.bias(distance_HH.clamp(0, self.max_distance))
        mask_NHH = bias_HHN.movedim(-1, 0).masked_fill(distance_HH < 0, -torch.inf)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_NHH)
        x_BHW = x_BHW + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        result: Tensor = x_BHW + self.mlp(x_BHW)
        return result

    @torch.no_grad()
    def prefer_the_recent(self) -> None:
        """Set the initial biases: zero for the first head, ever steeper slopes for the others.

        From zero, a bias moves by one learning rate a step. That is too slow to single out the
        last item.
        """
        steepness_N = 2.0 ** (1 - 2 * torch.arange(self.num_heads - 1, -1, -1))
        steepness_N[0] = 0
        self.bias.weight.copy_(-steepness_N * torch.arange(BIAS_ROWS).unsqueeze(1))


class _Mlp(nn.Module):
    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.mlp * config.width)
        self.down = nn.Linear(config.mlp * config.width, config.width)
        self.dropout = _Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.down(functional.gelu(self.up(self.norm(x)))))
        return result


class _Dropout(nn.Module):
    """Dropout from raw random bytes, so the rate is a multiple of 1/256.

    On a CPU torch draws one Bernoulli sample at a time: 37 ms for 6144 x 192. This takes 6 ms.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.num_dropped = round(256 * rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.num_dropped:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.num_dropped
        scale = keep.to(x.dtype).mul_(256 / (256 - self.num_dropped))
        return x * scale


def pack_sids(sids: Tensor, sizes: Sequence[int]) -> Tensor:
    """Pack whole SIDs (..., L) to one integer each, as `SidSpace.pack` does."""
    packed = sids[..., 0]
    for level, size in enumerate(sizes[1:], start=1):
        packed = packed * size + sids[..., level]
    return packed


def split_heads(x_MW: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """Split rows of `parts` vectors (M, parts * W) into one (N, M, E) tensor per part."""
    heads: tuple[Tensor, ...] = (
        x_MW.unflatten(-1, (parts, num_heads, -1)).permute(1, 2, 0, 3).unbind(0)
    )
    return heads


def _split(x: Tensor, num_heads: int) -> Tensor:
    """Split heads: (B, M, W) to (B, N, M, E)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
