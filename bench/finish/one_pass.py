"""Reference scores of every item for many users at once (Eq. 11).

The finish, which searches only the best items of one user, is compared with these.
"""

# B = users, H = history rows, M = nodes of one depth, N = catalog rows, L = levels

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalog.catalog import Catalog
from models.online.history_cache import window_start
from models.online.recommender import OnlineRecommender


class CatalogScorer:
    """Scores one catalog with one online recommender."""

    def __init__(self, recommender: OnlineRecommender, catalog: Catalog) -> None:
        self._recommender = recommender.eval()
        self._catalog = catalog
        trie = catalog.trie
        self._packed = [torch.from_numpy(packed) for packed in trie.packed]
        self._parents = [
            torch.from_numpy(trie.parents(depth, np.arange(len(trie.packed[depth + 1]))))
            for depth in range(trie.space.levels)
        ]

    @torch.inference_mode()
    def score(self, histories: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        """Return log P(SID | history) of every catalog row, (B, N), in the model's precision."""
        states_BW = self.encode(histories)
        joint_BM = states_BW.new_zeros(len(histories), 1)
        for depth, parent_M in enumerate(self._parents):
            joint_BM = joint_BM[:, parent_M] + self._log_shares(states_BW, depth)
        if joint_BM.dtype == torch.bfloat16:
            joint_BM = joint_BM.float()
        per_leaf = np.diff(self._catalog.first_row)
        return np.repeat(joint_BM.numpy(), per_leaf, axis=1)

    def encode(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Encode histories of catalog rows and return the state of the last item, (B, W)."""
        model, window = self._recommender, self._recommender.config.window
        recent = [list(history[window_start(len(history), window) :]) for history in histories]
        lengths_B = torch.tensor([len(history) for history in recent])
        rows_BH = torch.zeros(len(recent), int(lengths_B.max()), dtype=torch.int64)
        for user, history in enumerate(recent):
            rows_BH[user, : len(history)] = torch.tensor(history, dtype=torch.int64)
        sids_BHL = torch.from_numpy(self._catalog.sids.astype(np.int64))[rows_BH]
        states_BHW: Tensor = model.encode(model.embed_items(sids_BHL))
        return states_BHW[torch.arange(len(recent)), lengths_B]

    def _log_shares(self, states_BW: Tensor, depth: int) -> Tensor:
        """Return log P(node | history, its parent) of all nodes at `depth` + 1, (B, M)."""
        nodes_MW = self._recommender.embed_nodes(self._packed[depth + 1], depth + 1)
        logits_BM: Tensor = self._recommender.queries[depth](states_BW) @ nodes_MW.T
        parent_M, num = self._parents[depth], len(self._packed[depth])
        index_BM = parent_M.expand_as(logits_BM)
        empty_BM = logits_BM.new_full((len(logits_BM), num), -torch.inf)
        largest_BM = empty_BM.scatter_reduce(1, index_BM, logits_BM, "amax")
        shares_BM = (logits_BM - largest_BM[:, parent_M]).exp()
        totals_BM = torch.zeros_like(empty_BM).scatter_add(1, index_BM, shares_BM)
        return logits_BM - (largest_BM + totals_BM.log())[:, parent_M]
