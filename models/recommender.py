"""The online recommender: a causal encoder over items and a decoder over SIDs.

One vector per *item* of the history, so an event adds one vector; one decoder node per SID prefix,
attending to the history and to its own ancestors, so a whole prefix tree is one pass. Knows
nothing of catalogs, users or requests.
"""

# B = users, H = history vectors (start + items), M = decoder nodes, L = levels,
# D = ancestors a node, N = heads, E = head width, W = model width

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shape import BIAS_ROWS, RecommenderConfig


class Memory(NamedTuple):
    """An encoded history. Vector 0 is the start, vector h follows the h-th item."""

    states_BHW: Tensor
    valid_BH: Tensor  # bool


class Nodes(NamedTuple):
    """Decoder nodes. Leading dimension 1 where all users share the tree.

    codes: (1 or B, M, L - 1) the codes on a node's path; only its first `depth` count.
    ancestors: (M, D) nodes on the way from the root to the node itself, padded with the node.
    ancestor_mask: (M, D) bool, False where padded.
    position: (M,) which history vector the node follows, or None for the last valid one.
    """

    codes_BML: Tensor
    depth_M: Tensor
    ancestors_MD: Tensor
    ancestor_mask_MD: Tensor
    position_M: Tensor | None


class OnlineRecommender(nn.Module):
    """P(SID | history), factorised code by code (Eq. 1)."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.config = config
        width, levels = config.width, len(config.sizes)
        self.code_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in config.sizes)
        self.start = nn.Parameter(torch.zeros(width))
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.depth_embedding = nn.Embedding(levels, width)
        self.state_projection = nn.Linear(width, width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in config.sizes)
        self.dropout = _Dropout(config.dropout)
        self.apply(_initialise)

    def encode(self, sids_BHL: Tensor, lengths_B: Tensor) -> Memory:
        """Histories, oldest first and padded on the right, to one causal vector per item.

        sids_BHL: int64 (B, H, L), H at most the window. lengths_B: int64 (B,), zero allowed.
        Returns H + 1 vectors a user; entry h depends on the first h items alone.
        """
        items_BHW = self.sum_codes(sids_BHL)
        start_B1W = self.start.expand(len(sids_BHL), 1, -1)
        x_BHW = self.dropout(torch.cat([start_B1W, items_BHW], dim=1))
        num = x_BHW.shape[1]
        index_H = torch.arange(num)
        distance_HH = index_H.unsqueeze(1) - index_H.unsqueeze(0)
        for layer in self.encoder:
            x_BHW = layer(x_BHW, distance_HH)
        valid_BH = index_H.unsqueeze(0) <= lengths_B.unsqueeze(1)
        return Memory(self.encoder_norm(x_BHW), valid_BH)

    def decode(self, memory: Memory, nodes: Nodes) -> Tensor:
        """Hidden state of every node: (B, M, W)."""
        states_BHW, valid_BH = memory
        last_B = valid_BH.sum(dim=1) - 1
        if nodes.position_M is None:
            position_BM = last_B.unsqueeze(1)
            state_BMW = states_BHW[torch.arange(len(last_B)), last_B].unsqueeze(1)
        else:
            position_BM = nodes.position_M.unsqueeze(0)
            state_BMW = states_BHW[:, nodes.position_M]
        x_BMW = self.sum_codes(nodes.codes_BML, nodes.depth_M) + self.depth_embedding(nodes.depth_M)
        x_BMW = self.dropout(x_BMW) + self.state_projection(state_BMW)
        index_H = torch.arange(states_BHW.shape[1])
        distance_BMH = position_BM.unsqueeze(-1) - index_H
        visible_BMH = (distance_BMH >= 0) & valid_BH.unsqueeze(1)
        for layer in self.decoder:
            x_BMW = layer(x_BMW, states_BHW, distance_BMH, visible_BMH, nodes)
        normed: Tensor = self.decoder_norm(x_BMW)
        return normed

    def code_logprobs(self, hidden: Tensor, depth: int) -> Tensor:
        """log P(next code | node) over the whole codebook of level `depth`: (..., sizes[depth])."""
        logits: Tensor = self.heads[depth](hidden)
        return functional.log_softmax(logits, dim=-1)

    def sum_codes(self, codes: Tensor, depth: Tensor | None = None) -> Tensor:
        """Sum of the embeddings of the codes (..., D), or of the first `depth` (...) of each."""
        total = torch.zeros((), dtype=self.start.dtype)
        for level in range(codes.shape[-1]):
            embedded = self.code_embeddings[level](codes[..., level])
            total = total + (
                embedded if depth is None else embedded * (depth > level).unsqueeze(-1)
            )
        return total


def chain_nodes(targets_BHL: Tensor) -> Nodes:
    """Teacher forcing: for each history vector, the L nodes on the way to its target SID.

    targets_BHL: int64 (B, H, L). Node h * L + l predicts code l of target h.
    """
    num, levels = targets_BHL.shape[1:]
    codes_BML = targets_BHL[..., : levels - 1].repeat_interleave(levels, dim=1)
    depth_M = torch.arange(levels).repeat(num)
    position_M = torch.arange(num).repeat_interleave(levels)
    steps_ML = torch.arange(levels).expand(num * levels, levels)
    mask_ML = steps_ML <= depth_M.unsqueeze(1)
    first_M1 = (position_M * levels).unsqueeze(1)
    ancestors_ML = torch.where(mask_ML, first_M1 + steps_ML, first_M1 + depth_M.unsqueeze(1))
    return Nodes(codes_BML, depth_M, ancestors_ML, mask_ML, position_M)


class EncoderLayer(nn.Module):
    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.num_heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.bias = nn.Embedding(BIAS_ROWS, config.heads)
        self.max_distance = config.max_distance
        self.mlp = _Mlp(config, config.encoder_mlp)
        self.dropout = _Dropout(config.dropout)

    def forward(self, x_BHW: Tensor, distance_HH: Tensor) -> Tensor:
        q, k, v = (
            _split(part, self.num_heads) for part in self.qkv(self.norm(x_BHW)).chunk(3, dim=-1)
        )
        mask_NHH = _distance_bias(self.bias, distance_HH, self.max_distance).masked_fill(
            distance_HH < 0, -torch.inf
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_NHH)
        x_BHW = x_BHW + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        result: Tensor = x_BHW + self.mlp(x_BHW)
        return result


class DecoderLayer(nn.Module):
    """One softmax over the history and the node's own ancestors, then an MLP."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.num_heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.history_kv = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.bias = nn.Embedding(BIAS_ROWS, config.heads)
        self.max_distance = config.max_distance
        self.mlp = _Mlp(config, config.decoder_mlp)
        self.dropout = _Dropout(config.dropout)

    def forward(
        self,
        x_BMW: Tensor,
        states_BHW: Tensor,
        distance_BMH: Tensor,
        visible_BMH: Tensor,
        nodes: Nodes,
    ) -> Tensor:
        q, k, v = (
            _split(part, self.num_heads) for part in self.qkv(self.norm(x_BMW)).chunk(3, dim=-1)
        )
        keys, values = (
            _split(p, self.num_heads) for p in self.history_kv(states_BHW).chunk(2, dim=-1)
        )
        q = q * q.shape[-1] ** -0.5
        bias_BNMH = _distance_bias(self.bias, distance_BMH, self.max_distance)
        to_history = (q @ keys.transpose(-1, -2) + bias_BNMH).masked_fill(
            ~visible_BMH.unsqueeze(1), -torch.inf
        )
        near_k, near_v = k[:, :, nodes.ancestors_MD], v[:, :, nodes.ancestors_MD]  # (B, N, M, D, E)
        to_ancestors = (near_k @ q.unsqueeze(-1)).squeeze(-1)
        to_ancestors = to_ancestors.masked_fill(~nodes.ancestor_mask_MD, -torch.inf)
        weights = torch.cat([to_history, to_ancestors], dim=-1).softmax(dim=-1)
        num = keys.shape[2]
        mixed = weights[..., :num] @ values
        mixed = mixed + (weights[..., num:].unsqueeze(-2) @ near_v).squeeze(-2)
        x_BMW = x_BMW + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        result: Tensor = x_BMW + self.mlp(x_BMW)
        return result


class _Mlp(nn.Module):
    def __init__(self, config: RecommenderConfig, times: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, times * config.width)
        self.down = nn.Linear(times * config.width, config.width)
        self.dropout = _Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.down(functional.gelu(self.up(self.norm(x)))))
        return result


class _Dropout(nn.Module):
    """Dropout from raw random bytes, so the rate is a multiple of 1/256.

    torch draws one Bernoulli at a time on CPU: 37 ms for 6144 x 192 where this takes 6.
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


def split_heads(x_MW: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """Rows that hold `parts` vectors (M, parts * W) to each of them by head: (N, M, E)."""
    heads: tuple[Tensor, ...] = (
        x_MW.unflatten(-1, (parts, num_heads, -1)).permute(1, 2, 0, 3).unbind(0)
    )
    return heads


def _split(x: Tensor, num_heads: int) -> Tensor:
    """(B, M, W) to (B, N, M, E)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


def _distance_bias(table: nn.Embedding, distance: Tensor, longest: int) -> Tensor:
    """Learned bias per head by how many items back, clipped: (..., Q, K) to (..., N, Q, K)."""
    bias: Tensor = table(distance.clamp(0, longest))
    return bias.movedim(-1, -3)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
