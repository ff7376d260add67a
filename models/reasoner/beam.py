"""Constrained beam search over SIDs: the one implementation, for training and serving.

Knows tries and scorers. Knows nothing of text, users or Redis.
"""

# R = contexts, W = beams per context, V = codes of a level, C = candidates in all

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog.sid import Prefix
from models.catalog.trie import CatalogTrie


class Beam(NamedTuple):
    """One beam."""

    codes: Prefix
    logprob: float  # log P(codes | context), unnormalised over the catalog


class Frontier(NamedTuple):
    """Beams to extend. Padded with parent 0 and code 0; the padding is never read back."""

    parents_RW: NDArray[np.int64]  # beam of the previous step that each beam comes from
    codes_RW: NDArray[np.int64]  # newest code of each beam


class Scorer(Protocol):
    """Scores next codes after R contexts: log-probabilities over a level's whole codebook."""

    def start(self) -> NDArray[np.float32]:
        """Score first codes: (R, V)."""

    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        """Score codes after each beam of the frontier: (R, W, V of the next level)."""


def beam_search(scorer: Scorer, trie: CatalogTrie, *, depth: int, width: int) -> list[list[Beam]]:
    """Find the `width` best legal prefixes of `depth` codes by beam search, per context.

    Codes outside the catalog are dropped after log_softmax, so log-probabilities compare across
    parents. Ties go to the smaller SID.

    Returns:
        Beams of each context, best first. There are fewer than `width` only if the catalog has
        fewer prefixes.
    """
    logp_RWV = scorer.start()[:, None, :]
    num = len(logp_RWV)
    nodes = np.zeros(num, dtype=np.int64)
    context = np.arange(num)
    slot = np.zeros(num, dtype=np.int64)
    parent_slot = np.zeros(num, dtype=np.int64)
    code = np.zeros(num, dtype=np.int64)
    total = np.zeros(num)
    for level in range(depth):
        if level:
            logp_RWV = scorer.extend(_frontier(num, context, slot, parent_slot, code))
        children = trie.expand(level, nodes)
        parent_slot = slot[children.parent_C]
        context = context[children.parent_C]
        total = total[children.parent_C] + logp_RWV[context, parent_slot, children.code_C]
        order = np.lexsort((children.node_C, -total, context))
        rank = _rank_within(context[order])
        kept = order[rank < width]
        slot = rank[rank < width]
        nodes, context, total = children.node_C[kept], context[kept], total[kept]
        parent_slot, code = parent_slot[kept], children.code_C[kept].astype(np.int64)
    found: list[list[Beam]] = [[] for _ in range(num)]
    codes = trie.space.unpack(trie.packed[depth][nodes], depth).tolist()
    for at, (owner, logprob) in enumerate(zip(context.tolist(), total.tolist(), strict=True)):
        found[owner].append(Beam(tuple(codes[at]), logprob))
    return found


def _frontier(
    num: int,
    context: NDArray[np.int64],
    slot: NDArray[np.int64],
    parent_slot: NDArray[np.int64],
    code: NDArray[np.int64],
) -> Frontier:
    width = int(slot.max(initial=0)) + 1
    parents_RW = np.zeros((num, width), dtype=np.int64)
    codes_RW = np.zeros((num, width), dtype=np.int64)
    parents_RW[context, slot] = parent_slot
    codes_RW[context, slot] = code
    return Frontier(parents_RW, codes_RW)


def _rank_within(sorted_groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each entry within its run of equal values."""
    at = np.arange(len(sorted_groups))
    is_first = np.ones(len(sorted_groups), dtype=bool)
    is_first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    first: NDArray[np.int64] = np.maximum.accumulate(np.where(is_first, at, 0))
    return at - first
