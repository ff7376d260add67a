"""C_u from all that a night knows: thoughts, the items that it finds, and the online model.

A prefix's score is a weighted sum of logarithms, one a source. Knows finishers and histories.
Knows nothing of engines, records or stores.
"""

# P = prefixes that a source knows, N = catalog rows

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalog.sid import Prefix
from models.night.night_items import NightItems
from models.online.finish import Finisher
from models.online.found import Ints, Logprobs
from models.online.history_cache import window_start
from models.reasoner.think import PathPrefix

_MOST_OWN = 4096  # prefixes of the online model that are weighed
_NUM_ITEMS = 1000  # of the night, whose prefixes are weighed


@dataclass(frozen=True)
class PrefixWeights:
    """Weights of the sources: most likely on 5,000 validation users of Beauty."""

    model: float = 0.334  # of the online model's log-probability
    memory: float = 0.043  # of the largest bonus that its memory gives below the prefix
    items: float = 0.18  # of the largest bonus of a night's item below the prefix
    thoughts: float = 0.15  # of log(1 + P(prefix | history, best path) / floor)
    floor: float = 0.001


class NightPrefixes:
    """Chooses prefixes for users by their histories and thoughts. Not thread-safe."""

    def __init__(
        self, finisher: Finisher, items: NightItems, weights: PrefixWeights | None = None
    ) -> None:
        catalog = finisher.catalog
        depth = catalog.space.prefix_depth
        self._finisher, self._items = finisher, items
        self._weights = weights or PrefixWeights()
        self._trie = catalog.trie
        self._codes = catalog.trie.prefixes()
        self._prefix_N = catalog.trie.nodes(catalog.sids[:, :depth])

    def choose(
        self, history: Sequence[int], thoughts: Sequence[PathPrefix], *, num: int
    ) -> tuple[PathPrefix, ...]:
        """Return the `num` prefixes with the highest score, best first; ties by SID.

        A log-probability is that of a softmax over all weighed prefixes. A prefix that no thought
        found has no path.

        Args:
            history: catalog rows, oldest first.
            thoughts: legal prefixes, each once.
        """
        node_P, score_P = self._weigh(history, thoughts)
        most = score_P.max(initial=-np.inf)
        logprob_P = score_P - most - np.log(np.exp(score_P - most).sum())
        best = np.lexsort((node_P, -score_P))[:num]
        found = {prefix.codes: prefix for prefix in thoughts}
        return tuple(
            _chosen(found, tuple(codes), logprob)
            for codes, logprob in zip(
                self._codes[node_P[best]].tolist(), logprob_P[best].tolist(), strict=True
            )
        )

    def _weigh(
        self, history: Sequence[int], thoughts: Sequence[PathPrefix]
    ) -> tuple[Ints, Logprobs]:
        """Return the prefixes that a source knows as trie nodes, ascending, and their scores."""
        finisher, weights = self._finisher, self._weights
        state = finisher.encode(history[window_start(len(history), finisher.window) :])
        own = finisher.score_prefixes(state, count=_MOST_OWN)
        items = self._items.find(history, num=_NUM_ITEMS, exclude=history)
        thought_P = self._nodes(thoughts)
        lift_P = np.log1p(np.exp([prefix.logprob for prefix in thoughts]) / weights.floor)
        item_P = self._prefix_N[items.row_R]
        node_P = np.unique(np.concatenate([own.entry, item_P, thought_P]))
        least = own.logprob.min(initial=0.0)
        score_P = weights.model * _spread(node_P, own.entry, own.logprob, least)
        score_P += weights.memory * _spread(node_P, own.entry, own.score - own.logprob)
        score_P += weights.items * _spread(node_P, item_P, items.bonus_R)
        score_P += weights.thoughts * _spread(node_P, thought_P, lift_P)
        return node_P, score_P

    def _nodes(self, thoughts: Sequence[PathPrefix]) -> Ints:
        codes = [prefix.codes for prefix in thoughts]
        depth = self._codes.shape[1]
        return self._trie.nodes(np.array(codes, dtype=np.int64).reshape(-1, depth))


def _spread(
    node_P: Ints, known: Ints, value: NDArray[np.float64], default: float = 0.0
) -> Logprobs:
    """Return the largest value of each node; `default` for a node without one."""
    found_P = np.full(len(node_P), -np.inf)
    np.maximum.at(found_P, np.searchsorted(node_P, known), value)
    found_P[np.isneginf(found_P)] = default
    return found_P


def _chosen(found: dict[Prefix, PathPrefix], codes: Prefix, logprob: float) -> PathPrefix:
    thought = found.get(codes)
    if thought is None:
        return PathPrefix(codes, None, logprob, 0)
    return thought._replace(logprob=logprob)
