"""The online recommender: one causal transformer over the items of a history and the SIDs below it.

One row per *item* of the history, so an event adds one row; one row per SID prefix of a tree,
attending to the history and to its own ancestors, so a whole tree is one pass. All rows go through
the same layers. Knows nothing of catalogs, users or requests.
"""

# B = users, H = history rows (start + items), M = SID nodes, L = levels, D = nodes on a node's way,
# N = heads, E = head width, W = model width

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shape import BIAS_ROWS, UNKNOWN_SID, RecommenderConfig


class Memory(NamedTuple):
    """An encoded history. Row 0 is the start, row h follows the h-th item.

    states_BHW: what the next first code is read from. keys, values: by layer, (B, N, H, E).
    """

    states_BHW: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid_BH: Tensor  # bool


class Nodes(NamedTuple):
    """SID prefixes of depth 1 and more. Leading dimension 1 where all users share the tree.

    codes: (1 or B, M, L - 1) the codes of a node; only its first `depth` count.
    way: (M, D) nodes from depth 1 down to the node itself, padded with the node.
    way_mask: (M, D) bool, False where padded.
    position: (M,) which history row the node follows, or None for the last valid one.
    """

    codes_BML: Tensor
    depth_M: Tensor
    way_MD: Tensor
    way_mask_MD: Tensor
    position_M: Tensor | None


class OnlineRecommender(nn.Module):
    """P(SID | history), factorised code by code (Eq. 1)."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.code_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in config.sizes)
        self.item_embedding = nn.Embedding(config.known_items + 1, config.item_width)
        self.item_projection = nn.Linear(config.item_width, width, bias=False)
        self.known_sids = nn.Buffer(torch.full((config.known_items + 1,), UNKNOWN_SID))
        self.start = nn.Parameter(torch.zeros(width))
        self.depth_embedding = nn.Embedding(config.levels - 1, width)  # from depth 1 on
        self.pair_embedding = nn.Embedding(config.pair_rows, width)  # of the first two codes
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in config.sizes)
        self.dropout = _Dropout(config.dropout)
        self.item_dropout = _Dropout(config.item_dropout)
        self.apply(_initialise)
        for layer in cast("Sequence[Layer]", self.layers):
            layer.prefer_the_recent()

    def know(self, packed_I: Tensor) -> None:
        """Which items have an embedding of their own: packed SIDs, int64, sorted, distinct."""
        self.known_sids[:-1] = packed_I

    def encode(self, sids_BHL: Tensor, lengths_B: Tensor) -> Memory:
        """Histories, oldest first and padded on the right, to one causal row per item.

        sids_BHL: int64 (B, H, L), H at most the window. lengths_B: int64 (B,), zero allowed.
        Returns H + 1 rows a user; row h depends on the first h items alone.
        """
        items_BHW = self.embed_items(sids_BHL)
        start_B1W = self.start.expand(len(sids_BHL), 1, -1)
        x_BHW = self.dropout(torch.cat([start_B1W, items_BHW], dim=1))
        index_H = torch.arange(x_BHW.shape[1])
        distance_HH = index_H.unsqueeze(1) - index_H.unsqueeze(0)
        keys, values = [], []
        for layer in cast("Sequence[Layer]", self.layers):
            x_BHW, keys_BNHE, values_BNHE = layer.encode(x_BHW, distance_HH)
            keys.append(keys_BNHE)
            values.append(values_BNHE)
        valid_BH = index_H.unsqueeze(0) <= lengths_B.unsqueeze(1)
        return Memory(self.norm(x_BHW), tuple(keys), tuple(values), valid_BH)

    def decode(self, memory: Memory, nodes: Nodes) -> Tensor:
        """What the next code of every node is read from: (B, M, W)."""
        position_BM = last_row(memory).unsqueeze(1)
        if nodes.position_M is not None:
            position_BM = nodes.position_M.unsqueeze(0)
        x_BMW = self.dropout(self._embed_nodes(nodes))
        x_BMW = x_BMW.expand(len(memory.states_BHW), -1, -1)
        distance_BMH = position_BM.unsqueeze(-1) - torch.arange(memory.states_BHW.shape[1])
        visible_BMH = (distance_BMH >= 0) & memory.valid_BH.unsqueeze(1)
        layers = cast("Sequence[Layer]", self.layers)
        for layer, keys, values in zip(layers, memory.keys, memory.values, strict=True):
            x_BMW = layer.decode(x_BMW, keys, values, distance_BMH, visible_BMH, nodes)
        normed: Tensor = self.norm(x_BMW)
        return normed

    def embed_items(self, sids: Tensor) -> Tensor:
        """What its codes say of an item (..., L), and what is known of it alone: (..., W)."""
        packed = sids[..., 0]
        for level, size in enumerate(self.config.sizes[1:], start=1):
            packed = packed * size + sids[..., level]
        own = self.item_dropout(self._own_embedding(packed))
        result: Tensor = self.sum_codes(sids) + self.item_projection(own)
        return result

    def _own_embedding(self, packed: Tensor) -> Tensor:
        """Zero for an item that is not known."""
        at = torch.searchsorted(self.known_sids, packed)
        is_known = (self.known_sids[at] == packed).unsqueeze(-1)
        embedded: Tensor = self.item_embedding(at)
        return embedded * is_known

    def _embed_nodes(self, nodes: Nodes) -> Tensor:
        depth_MW: Tensor = self.depth_embedding(nodes.depth_M - 1)
        x_BMW = self.sum_codes(nodes.codes_BML, nodes.depth_M) + depth_MW
        if self.config.levels > 2:
            is_pair_M1 = (nodes.depth_M > 1).unsqueeze(-1)
            x_BMW = x_BMW + self.embed_pairs(nodes.codes_BML) * is_pair_M1
        return x_BMW

    def embed_pairs(self, codes: Tensor) -> Tensor:
        """What the first two codes (..., D) mean together: their sum alone left the last code 0.6
        nats worse after four epochs."""
        pair = (codes[..., 0] * self.config.sizes[1] + codes[..., 1]) % self.config.pair_rows
        embedded: Tensor = self.pair_embedding(pair)
        return embedded

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


def last_row(memory: Memory) -> Tensor:
    """The last valid history row of each user: (B,)."""
    return memory.valid_BH.sum(dim=1) - 1


def chain_nodes(targets_BHL: Tensor) -> Nodes:
    """Teacher forcing: for each history row, the L - 1 nodes on the way to its target SID.

    targets_BHL: int64 (B, H, L). Node h * (L - 1) + d - 1 predicts code d of target h.
    """
    num, levels = targets_BHL.shape[1:]
    deepest = levels - 1
    codes_BML = targets_BHL[..., :deepest].repeat_interleave(deepest, dim=1)
    step_M = torch.arange(deepest).repeat(num)
    position_M = torch.arange(num).repeat_interleave(deepest)
    steps_MD = torch.arange(deepest).expand(num * deepest, deepest)
    mask_MD = steps_MD <= step_M.unsqueeze(1)
    first_M1 = (position_M * deepest).unsqueeze(1)
    way_MD = first_M1 + torch.where(mask_MD, steps_MD, step_M.unsqueeze(1))
    return Nodes(codes_BML, step_M + 1, way_MD, mask_MD, position_M)


class Layer(nn.Module):
    """Attention with a learned bias by distance, then an MLP; for rows of both kinds."""

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

    def encode(self, x_BHW: Tensor, distance_HH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows after this layer; their keys and values (B, N, H, E)."""
        q, k, v = self._project(x_BHW)
        mask_NHH = self._bias(distance_HH).masked_fill(distance_HH < 0, -torch.inf)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_NHH)
        return self._finish(x_BHW, mixed), k, v

    def decode(
        self,
        x_BMW: Tensor,
        keys_BNHE: Tensor,
        values_BNHE: Tensor,
        distance_BMH: Tensor,
        visible_BMH: Tensor,
        nodes: Nodes,
    ) -> Tensor:
        """One softmax over the history and the nodes on each node's way, itself included."""
        q, k, v = self._project(x_BMW)
        q = q * q.shape[-1] ** -0.5
        to_history = (q @ keys_BNHE.transpose(-1, -2) + self._bias(distance_BMH)).masked_fill(
            ~visible_BMH.unsqueeze(1), -torch.inf
        )
        near_k, near_v = k[:, :, nodes.way_MD], v[:, :, nodes.way_MD]  # (B, N, M, D, E)
        to_way = (near_k @ q.unsqueeze(-1)).squeeze(-1)
        to_way = to_way.masked_fill(~nodes.way_mask_MD, -torch.inf)
        weights = torch.cat([to_history, to_way], dim=-1).softmax(dim=-1)
        num = keys_BNHE.shape[2]
        mixed = weights[..., :num] @ values_BNHE
        mixed = mixed + (weights[..., num:].unsqueeze(-2) @ near_v).squeeze(-2)
        return self._finish(x_BMW, mixed)

    @torch.no_grad()
    def prefer_the_recent(self) -> None:
        """Biases to begin with: none for the first head, falling ever steeper for the others.

        Left to itself a bias moves by a learning rate a step, too slowly to single out the last
        item: where nothing singles it out, the later codes never see what the first one saw.
        """
        steepness_N = 2.0 ** (1 - 2 * torch.arange(self.num_heads - 1, -1, -1))
        steepness_N[0] = 0
        self.bias.weight.copy_(-steepness_N * torch.arange(BIAS_ROWS).unsqueeze(1))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values by head: (B, N, M, E) each."""
        return tuple(_split(part, self.num_heads) for part in self.qkv(self.norm(x)).chunk(3, -1))

    def _bias(self, distance: Tensor) -> Tensor:
        """By head, clipped: (..., Q, K) to (..., N, Q, K)."""
        bias: Tensor = self.bias(distance.clamp(0, self.max_distance))
        return bias.movedim(-1, -3)

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        result: Tensor = x + self.mlp(x)
        return result


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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
