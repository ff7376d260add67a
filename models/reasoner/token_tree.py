"""A key-value cache as trees: prompts, paths and codes share their ancestors' tokens.

A prompt is a trunk, its sampled paths are branches, codes are twigs. A token sees itself and its
ancestors. The tokens of all trees go through the model packed, without padding and without ended
paths. Only attention arranges them by tree. Knows nothing of text, sampling or catalogs.
"""

# N = tokens in one pass, U = trees, Q = tokens of a tree in one pass, S = slots of a tree,
# H = key heads, G = query heads a key head, D = head width

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "token_tree"  # the name under which transformers finds `attend`
_SPARE_SLOTS = 64


class Tokens(NamedTuple):
    """Packed tokens; the tokens of one tree are adjacent."""

    tree_N: Tensor  # number of the token's tree, ascending
    sees_NS: Tensor  # slots that the token sees, its own included

    @property
    def positions(self) -> Tensor:
        return self.sees_NS.sum(dim=1) - 1


class _Pass(NamedTuple):
    """Positions of the tokens of one forward pass."""

    tree_N: Tensor
    slot_N: Tensor  # slot of the token in its tree
    row_N: Tensor  # row of the token among the tree's tokens of this pass
    sees_UQS: Tensor


class TokenTrees:
    """U trees, initially empty. `add` reserves slots; the next forward pass fills them."""

    def __init__(self, num_trees: int, device: torch.device) -> None:
        self.size_U = torch.zeros(num_trees, dtype=torch.int64, device=device)
        self._keys_UHSD: dict[int, Tensor] = {}
        self._values_UHSD: dict[int, Tensor] = {}
        self._pass: _Pass
        self._bias_U1QS: Tensor | None = None

    def add_prompts(self, length_U: Tensor) -> Tokens:
        """Add whole prompts as trunks: each token sees all tokens before it."""
        tree_N = torch.arange(len(length_U), device=length_U.device).repeat_interleave(length_U)
        row_N = self._row_within(tree_N)
        slot_S = torch.arange(int(length_U.max()), device=length_U.device)
        return self._begin(tree_N, row_N, slot_S <= row_N.unsqueeze(1))

    def add(self, parents: Tokens) -> Tokens:
        """Add one child for each parent."""
        row_N = self._row_within(parents.tree_N)
        slot_N = self.size_U[parents.tree_N] + row_N
        sees_NS = widen(parents.sees_NS, int(slot_N.max()) + 1)
        sees_NS[torch.arange(len(slot_N), device=slot_N.device), slot_N] = True
        return self._begin(parents.tree_N, row_N, sees_NS)

    def cut(self, size_U: Tensor) -> None:
        """Cut the trees back to these sizes."""
        self.size_U = size_U

    @property
    def mask(self) -> Tensor:
        """The slots that the last added tokens see: (U, 1, Q, S).

        transformers passes a mask of four dimensions on, and makes none of its own.
        """
        return self._pass.sees_UQS.unsqueeze(1)

    def attend(
        self, layer: int, query_1NE: Tensor, key_1ND: Tensor, value_1ND: Tensor, scaling: float
    ) -> Tensor:
        """Compute one layer's attention for the last added tokens.

        Args:
            query_1NE, key_1ND, value_1ND: (1, heads, N, D).

        Returns:
            (1, N, heads, D).
        """
        tree_N, slot_N, row_N, sees_UQS = self._pass
        num_trees, num_rows, num_slots = sees_UQS.shape
        heads, num, width = key_1ND.shape[1:]
        groups = query_1NE.shape[1] // heads
        keys_UHSD, values_UHSD = self._store(layer, key_1ND, num_slots)
        keys_UHSD[tree_N, :, slot_N] = key_1ND[0].transpose(0, 1)
        values_UHSD[tree_N, :, slot_N] = value_1ND[0].transpose(0, 1)
        # The query heads of one key head are adjacent rows, so that no key is copied.
        rows_UHQGD = query_1NE.new_zeros(num_trees, heads, num_rows, groups, width)
        query_NHGD = query_1NE[0].view(heads, groups, num, width).permute(2, 0, 1, 3)
        rows_UHQGD[tree_N, :, row_N] = query_NHGD
        seen_UHQD = scaled_dot_product_attention(
            rows_UHQGD.flatten(2, 3),
            keys_UHSD[:, :, :num_slots],
            values_UHSD[:, :, :num_slots],
            attn_mask=self._bias(groups, query_1NE.dtype),
            scale=scaling,
        )
        seen_NHGD = seen_UHQD.view(rows_UHQGD.shape)[tree_N, :, row_N]
        return seen_NHGD.reshape(1, num, heads * groups, width)

    def _begin(self, tree_N: Tensor, row_N: Tensor, sees_NS: Tensor) -> Tokens:
        num_U = tree_N.bincount(minlength=len(self.size_U))
        slot_N = self.size_U[tree_N] + row_N
        self.size_U = self.size_U + num_U
        shape = (len(num_U), int(num_U.max()), sees_NS.shape[1])
        sees_UQS = torch.zeros(shape, dtype=torch.bool, device=tree_N.device)
        sees_UQS[:, :, 0] = True  # a row of the softmax without any entry would be NaN
        sees_UQS[tree_N, row_N] = sees_NS
        self._pass = _Pass(tree_N, slot_N, row_N, sees_UQS)
        self._bias_U1QS = None
        return Tokens(tree_N, sees_NS)

    def _row_within(self, tree_N: Tensor) -> Tensor:
        """Return the row of each token among the tokens of its tree."""
        num_U = tree_N.bincount(minlength=len(self.size_U))
        start_U = num_U.cumsum(dim=0) - num_U
        return torch.arange(len(tree_N), device=tree_N.device) - start_U[tree_N]

    def _store(self, layer: int, like_1HND: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, with room for `num_slots`."""
        for store in (self._keys_UHSD, self._values_UHSD):
            held = store.get(layer)
            if held is None:
                heads, width = like_1HND.shape[1], like_1HND.shape[3]
                room = (len(self.size_U), heads, num_slots + _SPARE_SLOTS, width)
                store[layer] = like_1HND.new_zeros(room)
            elif held.shape[2] < num_slots:
                store[layer] = pad(held, (0, 0, 0, num_slots + _SPARE_SLOTS - held.shape[2]))
        return self._keys_UHSD[layer], self._values_UHSD[layer]

    def _bias(self, groups: int, dtype: torch.dtype) -> Tensor:
        """Return 0 where a row may look and -inf elsewhere, (U, 1, Q x G, S). Made once a pass."""
        if self._bias_U1QS is None:
            sees_UQS = self._pass.sees_UQS.repeat_interleave(groups, dim=1)
            bias_UQS = torch.zeros(sees_UQS.shape, dtype=dtype, device=sees_UQS.device)
            self._bias_U1QS = bias_UQS.masked_fill_(~sees_UQS, -torch.inf).unsqueeze(1)
        return self._bias_U1QS


def widen(sees_NS: Tensor, num_slots: int) -> Tensor:
    """Return a copy with at least `num_slots` slots; new slots are not seen."""
    return pad(sees_NS, (0, max(num_slots - sees_NS.shape[1], 0)))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    trees: TokenTrees | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers, which calls this in each layer.

    `trees` comes with the forward pass. Without trees the model attends as usual, so that other
    code can still use it.
    """
    if trees is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
    return trees.attend(int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
