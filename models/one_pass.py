"""The whole catalog in one pass over its trie, many users at a time: every item's score.

The reference of the finish, which wants the best few of one user. Each log-probability is a sum of
gathered entries (Eq. 11).
"""

# B = users, M = tree nodes, C = leaves (candidate SIDs), L = levels

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog import Catalog
from models.history import window_start
from models.recommender import Memory, Nodes, OnlineRecommender, last_row
from models.trie import CatalogTrie


class Hang(NamedTuple):
    """How the entries of one depth hang below those of the depth above: by index, and by code."""

    parent: Tensor
    code: Tensor


@dataclass(frozen=True)
class PrefixTree:
    """The part of the trie that a set of prefixes spans.

    nodes: all between the root and the leaves, by depth, each depth in trie order; those of depth d
    begin at offsets[d - 1]. hang[d]: how depth d + 1 hangs below depth d; the last one is of the
    leaves (C,). leaf_C: each candidate's index among the trie's leaves.
    """

    nodes: Nodes
    offsets: tuple[int, ...]
    hang: tuple[Hang, ...]
    leaf_C: NDArray[np.int64]


def span_tree(trie: CatalogTrie, prefix_nodes: NDArray[np.int64], depth: int) -> PrefixTree:
    """The tree over `prefix_nodes`, trie nodes at `depth`, down to every leaf below them."""
    levels = trie.space.levels
    per_depth: list[NDArray[np.int64]] = [np.unique(prefix_nodes)]
    for above in range(depth - 1, -1, -1):
        per_depth.insert(0, np.unique(trie.parents(above, per_depth[0])))
    for below in range(depth, levels):
        per_depth.append(trie.expand(below, per_depth[-1]).node_C)
    hang = tuple(_hang(trie, level, per_depth) for level in range(levels))
    offsets = tuple(np.cumsum([0, *(len(nodes) for nodes in per_depth[1:-1])]).tolist())
    return PrefixTree(_nodes(hang, offsets), offsets, hang, per_depth[-1])


def _hang(trie: CatalogTrie, level: int, per_depth: list[NDArray[np.int64]]) -> Hang:
    below = per_depth[level + 1]
    parent = np.searchsorted(per_depth[level], trie.parents(level, below))
    code = trie.codes[level][below].astype(np.int64)
    return Hang(torch.from_numpy(parent), torch.from_numpy(code))


def _nodes(hang: tuple[Hang, ...], offsets: tuple[int, ...]) -> Nodes:
    """The way, the codes on it and the depth of every node."""
    deepest, num = len(hang) - 1, offsets[-1]
    way_MD = torch.arange(num).unsqueeze(1).repeat(1, deepest)
    codes_MD = torch.zeros(num, deepest, dtype=torch.int64)
    depth_M = torch.repeat_interleave(torch.arange(deepest), torch.tensor(offsets).diff()) + 1
    for depth in range(1, deepest + 1):
        here = slice(offsets[depth - 1], offsets[depth])
        if depth > 1:
            parent = hang[depth - 1].parent + offsets[depth - 2]
            way_MD[here, : depth - 1] = way_MD[parent, : depth - 1]
            codes_MD[here] = codes_MD[parent]
        codes_MD[here, depth - 1] = hang[depth - 1].code
    mask_MD = torch.arange(deepest) < depth_M.unsqueeze(1)
    return Nodes(codes_MD.unsqueeze(0), depth_M, way_MD, mask_MD, None)


def tree_logprobs(recommender: OnlineRecommender, memory: Memory, tree: PrefixTree) -> Tensor:
    """log P(SID | history) of the tree's leaves: (B, C).

    Codes that the catalog lacks are left out after log_softmax, never before it: renormalising each
    prefix on its own would change the order between prefixes (Eq. 11).
    """
    hidden_BMW = recommender.decode(memory, tree.nodes)
    users_B = torch.arange(len(memory.states_BHW))
    here_BMW = memory.states_BHW[users_B, last_row(memory)].unsqueeze(1)
    joint_BM = hidden_BMW.new_zeros(len(hidden_BMW), 1)
    for level, (parent, code) in enumerate(tree.hang):
        if level:
            here_BMW = hidden_BMW[:, tree.offsets[level - 1] : tree.offsets[level]]
        logp_BMV = recommender.code_logprobs(here_BMW, level)
        joint_BM = joint_BM[:, parent] + logp_BMV[:, parent, code]
    return joint_BM


class CatalogScorer:
    """Scores one catalog with one online recommender."""

    def __init__(self, recommender: OnlineRecommender, catalog: Catalog) -> None:
        self._recommender = recommender.eval()
        self._catalog = catalog
        self._sids = torch.from_numpy(catalog.sids.astype(np.int64))
        depth = catalog.space.prefix_depth
        all_prefixes = np.arange(len(catalog.trie.packed[depth]), dtype=np.int64)
        self._whole = span_tree(catalog.trie, all_prefixes, depth)

    @torch.inference_mode()
    def score(self, histories: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        """log P(SID | history) of every catalog row: (B, N), in the recommender's precision."""
        logp_BC = tree_logprobs(self._recommender, self.encode(histories), self._whole)
        if logp_BC.dtype == torch.bfloat16:
            logp_BC = logp_BC.float()
        per_leaf = np.diff(self._catalog.first_row)
        return np.repeat(logp_BC.numpy(), per_leaf, axis=1)

    def encode(self, histories: Sequence[Sequence[int]]) -> Memory:
        """What counts of each history (`models.history`), by catalog row."""
        window = self._recommender.config.window
        recent = [list(history[window_start(len(history), window) :]) for history in histories]
        lengths_B = torch.tensor([len(history) for history in recent])
        rows_BH = torch.zeros(len(recent), int(lengths_B.max()), dtype=torch.int64)
        for user, history in enumerate(recent):
            rows_BH[user, : len(history)] = torch.tensor(history, dtype=torch.int64)
        return self._recommender.encode(self._sids[rows_BH], lengths_B)
