"""The exact one-pass finish of Eq. 11 over a prefix tree.

The prefixes are known beforehand, so the decoder runs once over the tree of their ancestors (and, for
more than one level after the prefix, their inner descendants); each candidate's log-probability is a
sum of gathered entries. No beam, no illegal SID, no approximation. Knows nothing of Redis or HTTP.
"""

# B = users, M = tree nodes, C = leaves (candidate SIDs), L = levels

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog import Catalog
from models.recommender import Memory, Nodes, OnlineRecommender
from models.sid import Prefix
from models.trie import CatalogTrie


class Scored(NamedTuple):
    """A catalog row and log P(its SID | history) by the online model (Eq. 11)."""

    row: int
    logprob: float


@dataclass(frozen=True)
class PrefixTree:
    """The part of the trie that a set of prefixes spans.

    nodes: decoder input; parent_M / code_M: how a node hangs below its parent (root: parent 0).
    leaf_parent_C, leaf_code_C: where each candidate's last log-probability stands; leaf_C: its SID's
    index among the trie's leaves.
    """

    nodes: Nodes
    offsets: tuple[int, ...]  # first node of each depth, then M
    parent_M: Tensor
    code_M: Tensor
    leaf_parent_C: Tensor
    leaf_code_C: Tensor
    leaf_C: NDArray[np.int64]


def span_tree(trie: CatalogTrie, prefix_nodes: NDArray[np.int64], depth: int) -> PrefixTree:
    """The tree over `prefix_nodes`, distinct trie nodes at `depth`, down to every leaf below."""
    levels = trie.space.levels
    per_depth: list[NDArray[np.int64]] = [np.unique(prefix_nodes)]
    for above in range(depth - 1, -1, -1):
        parents = np.searchsorted(trie.first_child[above], per_depth[0], side="right") - 1
        per_depth.insert(0, np.unique(parents))
    for below in range(depth, levels - 1):
        per_depth.append(trie.expand(below, per_depth[-1]).node_C)
    offsets = tuple(np.cumsum([0, *(len(nodes) for nodes in per_depth)]).tolist())
    leaves = trie.expand(levels - 1, per_depth[-1])
    ancestors_ML, codes_ML, depth_M = _paths(trie, per_depth, offsets)
    mask_ML = np.arange(levels) <= depth_M[:, None]
    at_M = np.arange(offsets[-1])
    parent_M = np.where(depth_M > 0, ancestors_ML[at_M, np.maximum(depth_M - 1, 0)], 0)
    code_M = np.where(depth_M > 0, codes_ML[at_M, np.maximum(depth_M - 1, 0)], 0)
    nodes = Nodes(
        codes_BML=torch.from_numpy(codes_ML).unsqueeze(0),
        depth_M=torch.from_numpy(depth_M),
        ancestors_MD=torch.from_numpy(ancestors_ML),
        ancestor_mask_MD=torch.from_numpy(mask_ML),
        position_M=None,
    )
    return PrefixTree(
        nodes=nodes,
        offsets=offsets,
        parent_M=torch.from_numpy(parent_M),
        code_M=torch.from_numpy(code_M),
        leaf_parent_C=torch.from_numpy(leaves.parent_C + offsets[-2]),
        leaf_code_C=torch.from_numpy(leaves.code_C.astype(np.int64)),
        leaf_C=leaves.node_C,
    )


def _paths(
    trie: CatalogTrie, per_depth: list[NDArray[np.int64]], offsets: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ancestors (M, L), codes on the path (M, L - 1) and depth (M,) of every node of the tree."""
    levels = trie.space.levels
    ancestors_ML = np.repeat(np.arange(offsets[-1])[:, None], levels, axis=1)
    codes_ML = np.zeros((offsets[-1], levels - 1), dtype=np.int64)
    depth_M = np.repeat(np.arange(levels), np.diff(offsets))
    for depth in range(1, levels):
        here = slice(offsets[depth], offsets[depth + 1])
        parents = np.searchsorted(trie.first_child[depth - 1], per_depth[depth], side="right") - 1
        at = offsets[depth - 1] + np.searchsorted(per_depth[depth - 1], parents)
        ancestors_ML[here, :depth] = ancestors_ML[at, :depth]
        codes_ML[here] = codes_ML[at]
        codes_ML[here, depth - 1] = trie.codes[depth - 1][per_depth[depth]]
    return ancestors_ML, codes_ML, depth_M


def tree_logprobs(recommender: OnlineRecommender, memory: Memory, tree: PrefixTree) -> Tensor:
    """log P(SID | history) of every candidate: (B, C).

    Codes that the catalog lacks are left out after log_softmax, never before it: renormalising each
    prefix on its own would change the order between prefixes (Eq. 11).
    """
    hidden_BMW = recommender.decode(memory, tree.nodes)
    joint_BM = hidden_BMW.new_zeros(len(hidden_BMW), 1)
    for depth in range(len(tree.offsets) - 1):
        lo, hi = tree.offsets[depth], tree.offsets[depth + 1]
        logp_BMV = recommender.code_logprobs(hidden_BMW[:, lo:hi], depth)
        if depth + 2 < len(tree.offsets):
            below = slice(hi, tree.offsets[depth + 2])
            parent, code = tree.parent_M[below] - lo, tree.code_M[below]
        else:
            parent, code = tree.leaf_parent_C - lo, tree.leaf_code_C
        joint_BM = joint_BM[:, parent] + logp_BMV[:, parent, code]
    return joint_BM


class Finisher:
    """Scores candidates of one release's catalog with one online recommender. Not thread-safe."""

    def __init__(self, recommender: OnlineRecommender, catalog: Catalog) -> None:
        self._recommender = recommender.eval()
        self._catalog = catalog
        self._sids = torch.from_numpy(catalog.sids.astype(np.int64))
        depth = catalog.space.prefix_depth
        all_prefixes = np.arange(len(catalog.trie.packed[depth]), dtype=np.int64)
        self._whole = span_tree(catalog.trie, all_prefixes, depth)

    @torch.inference_mode()
    def finish(
        self,
        history_rows: Sequence[int],
        prefixes: Sequence[Prefix],
        *,
        k: int,
        exclude: Collection[int] = (),
    ) -> list[Scored]:
        """The k best items below `prefixes`, best first; ties by catalog row.

        Exact: equal to scoring every item of the catalog and keeping those below `prefixes`.
        Prefixes that the trie lacks are ignored; `exclude` holds catalog rows. Items whose score is
        not finite are left out.
        """
        depth = self._catalog.space.prefix_depth
        nodes_P = self._catalog.trie.nodes(np.array(prefixes, dtype=np.int64).reshape(-1, depth))
        nodes_P = nodes_P[nodes_P >= 0]
        if not len(nodes_P):
            return []
        tree = span_tree(self._catalog.trie, nodes_P, depth)
        logp_C = tree_logprobs(self._recommender, self.encode([history_rows]), tree)[0]
        return self._top_items(logp_C.double().numpy(), tree.leaf_C, k, exclude)

    @torch.inference_mode()
    def best_prefixes(self, history_rows: Sequence[int], *, count: int) -> list[Prefix]:
        """The online model's own `count` best legal prefixes by log P(prefix | history)."""
        order = self.rank_prefixes([history_rows])[0, :count]
        table = self._catalog.trie.prefixes()
        return [tuple(codes) for codes in table[order].tolist()]

    @torch.inference_mode()
    def rank_prefixes(self, histories: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """All legal prefixes as indices into `trie.prefixes()`, best first: (B, P)."""
        logp_BP = self._prefix_logprobs(self.encode(histories))
        return np.argsort(-logp_BP.numpy(), axis=1, kind="stable")

    @torch.inference_mode()
    def score_catalog(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """log P(SID | history) of every catalog row: (B, N). Brute force, for evaluation."""
        logp_BC = (
            tree_logprobs(self._recommender, self.encode(histories), self._whole).float().numpy()
        )
        per_leaf = np.diff(self._catalog.first_row)
        return np.repeat(logp_BC, per_leaf, axis=1)

    def encode(self, histories: Sequence[Sequence[int]]) -> Memory:
        """The last `window` items of each history, by catalog row."""
        window = self._recommender.config.window
        recent = [list(history[-window:]) for history in histories]
        lengths_B = torch.tensor([len(history) for history in recent])
        rows_BH = torch.zeros(len(recent), int(lengths_B.max()), dtype=torch.int64)
        for user, history in enumerate(recent):
            rows_BH[user, : len(history)] = torch.tensor(history, dtype=torch.int64)
        return self._recommender.encode(self._sids[rows_BH], lengths_B)

    def _prefix_logprobs(self, memory: Memory) -> Tensor:
        """log P(prefix | history) for every legal prefix; the tree above the prefixes suffices."""
        tree, depth = self._whole, self._catalog.space.prefix_depth
        num = tree.offsets[depth]
        nodes = tree.nodes
        upper = Nodes(
            nodes.codes_BML[:, :num],
            nodes.depth_M[:num],
            nodes.ancestors_MD[:num],
            nodes.ancestor_mask_MD[:num],
            None,
        )
        hidden_BMW = self._recommender.decode(memory, upper)
        joint_BM = hidden_BMW.new_zeros(len(hidden_BMW), 1)
        for level in range(depth):
            lo, hi = tree.offsets[level], tree.offsets[level + 1]
            logp_BMV = self._recommender.code_logprobs(hidden_BMW[:, lo:hi], level)
            below = slice(hi, tree.offsets[level + 2])
            parent, code = tree.parent_M[below] - lo, tree.code_M[below]
            joint_BM = joint_BM[:, parent] + logp_BMV[:, parent, code]
        return joint_BM

    def _top_items(
        self,
        logp_C: NDArray[np.float64],
        leaf_C: NDArray[np.int64],
        k: int,
        exclude: Collection[int],
    ) -> list[Scored]:
        first_row = self._catalog.first_row
        best: list[Scored] = []
        for at in np.lexsort((leaf_C, -logp_C)).tolist():
            if len(best) >= k:
                break
            if not np.isfinite(logp_C[at]):
                continue
            for row in range(int(first_row[leaf_C[at]]), int(first_row[leaf_C[at] + 1])):
                if row not in exclude:
                    best.append(Scored(row, float(logp_C[at])))
        return best[:k]
