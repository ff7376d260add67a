"""Forced thoughts: the reasoner's own, cut short, empty, or of another user.

The night's beam search continues each of them. Knows nothing of the disk.
"""

# R = paths of a micro-batch, L = levels of a SID

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.reasoner.beam import Beam, Frontier, Scorer, beam_search
from models.reasoner.think import UserHistory, render_history
from models.reasoner.transformers_engine import TransformersReasoner

WHOLE, EMPTY, SHUFFLED = "whole", "empty", "shuffled"


def cut(share: float) -> Callable[[str], str]:
    """Return a function that keeps the first `share` of a thought's words."""

    def begin(text: str) -> str:
        words = text.split(" ")
        return " ".join(words[: round(share * len(words))])

    return begin


STEPS: Mapping[str, Callable[[str], str]] = {
    EMPTY: cut(0.0),
    "quarter": cut(0.25),
    "half": cut(0.5),
    "three quarters": cut(0.75),
    WHOLE: cut(1.0),
}


class Continuation(NamedTuple):
    """Continuations of one user's forced paths, one entry per path."""

    prefixes: list[list[Beam]]
    sids: list[list[Beam]]  # whole SIDs
    target_logprobs: list[float] | None  # natural log over the whole vocabulary; None: no target


def continue_thoughts(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    texts: Sequence[Sequence[str]],
    targets: Sequence[int | None],
    *,
    width: int,
) -> list[Continuation]:
    """Continue given thoughts with beams of `width`.

    Args:
        texts: thoughts per user, equally many for all.
        targets: catalog row per user; None if the catalog lacks it.
    """
    paths = len(texts[0])
    batch = reasoner.recite([render_history(catalog, user.rows) for user in users], texts)
    depth, levels = catalog.space.prefix_depth, catalog.space.levels
    prefixes = beam_search(batch.scorer(), catalog.trie, depth=depth, width=width)
    sids = beam_search(batch.scorer(), catalog.trie, depth=levels, width=width)
    row_R = np.repeat([0 if target is None else target for target in targets], paths)
    logprobs = sid_logprobs(batch.scorer(), catalog.sids[row_R].astype(np.int64)).tolist()
    found = []
    for at, target in enumerate(targets):
        own = slice(at * paths, (at + 1) * paths)
        likely = None if target is None else logprobs[own]
        found.append(Continuation(prefixes[own], sids[own], likely))
    return found


def sid_logprobs(scorer: Scorer, sids_RL: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log P of one given SID after each context, (R,)."""
    at_R = np.arange(len(sids_RL))
    logp_RV = scorer.start()
    total_R: NDArray[np.float64] = logp_RV[at_R, sids_RL[:, 0]].astype(np.float64)
    for level in range(1, sids_RL.shape[1]):
        before_R1 = sids_RL[:, level - 1 : level]
        logp_RV = scorer.extend(Frontier(np.zeros_like(before_R1), before_R1))[:, 0]
        total_R += logp_RV[at_R, sids_RL[:, level]]
    return total_R
