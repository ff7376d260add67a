"""A decoder-only language model over SID tokens: its tokens, and its exact scores of a catalog.

A user of `transformers` would write this today; the benchmark compares our online tier with it.
Knows any causal LM with the vocabulary `SidTokens`. Knows nothing of our recommender.
"""

# B = users, H = items, L = levels, T = prompt tokens, M = trie nodes, K = cached positions,
# V = vocabulary, N = catalog rows, C = leaves

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog.catalog import Catalog
from models.catalog.sid import Sid, SidSpace
from models.catalog.trie import CatalogTrie


@dataclass(frozen=True)
class SidTokens:
    """The vocabulary: one token a code, level after level, then BOS and PAD."""

    space: SidSpace

    @cached_property
    def first_token(self) -> NDArray[np.int64]:
        """The token of code 0, by level: (L,)."""
        return np.cumsum((0, *self.space.sizes[:-1]), dtype=np.int64)

    @property
    def bos(self) -> int:
        return sum(self.space.sizes)

    @property
    def pad(self) -> int:
        return self.bos + 1

    def __len__(self) -> int:
        return self.bos + 2

    def ids(self, codes: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a SID or of a prefix."""
        first = self.first_token.tolist()
        return tuple(code + first[level] for level, code in enumerate(codes))

    def sid(self, ids: Sequence[int]) -> Sid:
        """Invert `ids`."""
        first = self.first_token.tolist()
        return tuple(token - first[level] for level, token in enumerate(ids))

    def prompt(self, sids: Sequence[Sequence[int]] | NDArray[np.integer]) -> list[int]:
        """Render BOS, then the L tokens of each item, oldest first."""
        codes_HL = np.array(sids, dtype=np.int64).reshape(-1, self.space.levels)
        return [self.bos, *(codes_HL + self.first_token).ravel().tolist()]


_FIRST_NODES = 128  # of 1,798 prefixes; enough for the top ten of nearly every user


class CatalogScores(NamedTuple):
    """Scores of a catalog. A row that was not scored lies at or below `bound_B`."""

    logp_BN: NDArray[np.float32]  # log P(SID | history) by catalog row; -inf where not scored
    bound_B: NDArray[np.float32]  # best log P(prefix) that was left out; -inf if none was


class _Prompted(NamedTuple):
    """Prompts in the cache. Every query may look at their real tokens and at its ancestors."""

    cache: Any
    is_real_BT: Tensor
    length_B1: Tensor


class LanguageModelScorer:
    """Scores a catalog by one pass over the prompts and one pass a depth over the trie's nodes.

    A code's probability is over the whole vocabulary, never renormalised over the legal codes.
    Not thread-safe.
    """

    def __init__(self, model: Any, catalog: Catalog) -> None:
        self._model, self._catalog = model, catalog
        self._trie: CatalogTrie = catalog.trie
        self._tokens = SidTokens(catalog.space)

    def score_top(
        self, histories: Sequence[Sequence[int]], masked: Sequence[Collection[int]], *, k: int
    ) -> NDArray[np.float32]:
        """Return log P(SID | history) by row, exact for the `k` best unmasked rows: (B, N).

        Masked rows are -inf, and so are rows that cannot be among the k best. The probability of
        a prefix bounds everything below it, so most prefixes need not be read.
        """
        return self._score_top(histories, masked, k=k, num_nodes=_FIRST_NODES)

    def _score_top(
        self,
        histories: Sequence[Sequence[int]],
        masked: Sequence[Collection[int]],
        *,
        k: int,
        num_nodes: int,
    ) -> NDArray[np.float32]:
        logp_BN, bound_B = self.score(histories, num_nodes=num_nodes)
        for logp_N, rows in zip(logp_BN, masked, strict=True):
            logp_N[list(rows)] = -np.inf
        worst_B = np.partition(logp_BN, -k, axis=1)[:, -k]
        open_U = np.flatnonzero((worst_B <= bound_B) & np.isfinite(bound_B)).tolist()
        if open_U:
            logp_BN[open_U] = self._score_top(
                [histories[user] for user in open_U],
                [masked[user] for user in open_U],
                k=k,
                num_nodes=4 * num_nodes,
            )
        return logp_BN

    @torch.inference_mode()
    def score(
        self, histories: Sequence[Sequence[int]], *, num_nodes: int | None = None
    ) -> CatalogScores:
        """Score the items below each user's `num_nodes` best inner nodes (default: all nodes).

        Inner nodes hold all codes but the last.

        Args:
            histories: catalog rows, oldest first, not cut.
        """
        inner = self._catalog.space.levels - 1
        prompted, logp_BV = self._read_prompts(histories)
        joint_BM = logp_BV[:, self._node_tokens(1)]
        slots: list[int] = []
        for depth in range(1, inner):
            slots.append(prompted.cache.get_seq_length())
            node_BM = torch.arange(joint_BM.shape[1]).expand(len(histories), -1)
            logp_BMV = self._read_nodes(prompted, depth, node_BM, slots)
            parent_M = torch.from_numpy(self._trie.parents(depth, self._all_nodes(depth + 1)))
            step_BM = logp_BMV[:, parent_M, self._node_tokens(depth + 1)]
            joint_BM = joint_BM[:, parent_M] + step_BM
        joint_BM, node_BM = joint_BM.sort(dim=1, descending=True, stable=True)
        num = joint_BM.shape[1] if num_nodes is None else min(num_nodes, joint_BM.shape[1])
        slots.append(prompted.cache.get_seq_length())
        logp_BMV = self._read_nodes(prompted, inner, node_BM[:, :num], slots)
        bound_BM = joint_BM[:, num : num + 1].float().numpy()
        bound_B = bound_BM[:, 0] if bound_BM.size else np.full(len(bound_BM), -np.inf, np.float32)
        logp_BN = self._gather_leaves(joint_BM[:, :num], logp_BMV, node_BM[:, :num].numpy())
        return CatalogScores(logp_BN, bound_B)

    def _read_prompts(self, histories: Sequence[Sequence[int]]) -> tuple[_Prompted, Tensor]:
        """Read prompts into the cache. Returns it with log P of the next token: (B, V)."""
        prompts = [self._tokens.prompt(self._catalog.sids[list(rows)]) for rows in histories]
        length_B = torch.tensor([len(prompt) for prompt in prompts])
        ids_BT = torch.full((len(prompts), int(length_B.max())), self._tokens.pad)
        for user, prompt in enumerate(prompts):
            ids_BT[user, : len(prompt)] = torch.tensor(prompt)
        # Padding is on the right, so causality hides it from every real token.
        read = self._model.base_model(input_ids=ids_BT, use_cache=True)
        is_real_BT = torch.arange(ids_BT.shape[1]) < length_B.unsqueeze(1)
        last_BW = read.last_hidden_state[torch.arange(len(prompts)), length_B - 1]
        prompted = _Prompted(read.past_key_values, is_real_BT, length_B.unsqueeze(1))
        return prompted, self._logprobs(last_BW)

    def _read_nodes(
        self, prompted: _Prompted, depth: int, node_BM: Tensor, slots: Sequence[int]
    ) -> Tensor:
        """Return log P of the code after each node at `depth`: (B, M, V).

        Args:
            slots: slots[d - 1] is the position in the cache at which the nodes of depth d begin.
        """
        num = node_BM.shape[1]
        sees_BMK = torch.zeros(*node_BM.shape, slots[-1] + num, dtype=torch.bool)
        sees_BMK[..., : prompted.is_real_BT.shape[1]] = prompted.is_real_BT.unsqueeze(1)
        sees_BMK[:, torch.arange(num), slots[-1] + torch.arange(num)] = True
        for above, ancestor_BM in self._ancestors(depth, node_BM):
            sees_BMK.scatter_(2, (slots[above - 1] + ancestor_BM).unsqueeze(2), True)
        read = self._model.base_model(
            input_ids=self._node_tokens(depth)[node_BM],
            position_ids=(prompted.length_B1 + depth - 1).expand(-1, num),
            attention_mask=sees_BMK.unsqueeze(1),
            past_key_values=prompted.cache,
            use_cache=True,
        )
        return self._logprobs(read.last_hidden_state)

    def _ancestors(self, depth: int, node_BM: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield depth and nodes of the ancestors below the root, nearest first."""
        for above in range(depth - 1, 0, -1):
            node_BM = torch.from_numpy(self._trie.parents(above, node_BM.numpy()))
            yield above, node_BM

    def _gather_leaves(
        self, joint_BM: Tensor, logp_BMV: Tensor, node_BM: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return scores of the rows below each user's inner nodes: (B, N)."""
        depth = self._catalog.space.levels - 1
        leaf_scores = np.full((len(node_BM), len(self._trie)), -np.inf, dtype=np.float32)
        for user, node_M in enumerate(node_BM):
            parent_C, leaf_C, code_C = self._trie.expand(depth, node_M)
            token_C = torch.from_numpy(code_C.astype(np.int64) + self._tokens.first_token[depth])
            at_C = torch.from_numpy(parent_C)
            joint_C = joint_BM[user, at_C] + logp_BMV[user, at_C, token_C]
            leaf_scores[user, leaf_C] = joint_C.float().numpy()
        return np.repeat(leaf_scores, np.diff(self._catalog.first_row), axis=1)

    def _node_tokens(self, depth: int) -> Tensor:
        """Return the token of the last code of every node at `depth`: (M,)."""
        codes_M = self._trie.codes[depth - 1].astype(np.int64)
        return torch.from_numpy(codes_M + self._tokens.first_token[depth - 1])

    def _all_nodes(self, depth: int) -> NDArray[np.int64]:
        return np.arange(len(self._trie.packed[depth]), dtype=np.int64)

    def _logprobs(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.get_output_embeddings()(hidden)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bf16 under autocast
        return wide.log_softmax(dim=-1)
