"""The parts of an item's score: the online model's and the memory's.

For people who look at a list; a request for recommendations needs the sum alone.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from models.online.finish import Finisher, KeptHistory


class ScoreParts(NamedTuple):
    """Parts that add up to the score of one item."""

    logprob: float  # log P(SID | history) by the online model (Eq. 11)
    bonus: float  # for the evidence of the memory, at least 0


def score_parts(
    finisher: Finisher, state: KeptHistory, rows: Collection[int]
) -> dict[int, ScoreParts]:
    """Return the parts of these catalog rows; a row whose score is not finite is left out."""
    catalog = finisher.catalog
    prefixes_RD = catalog.sids[list(rows), : catalog.space.prefix_depth]
    allowed_N = np.zeros(len(catalog), dtype=bool)
    allowed_N[list(rows)] = True
    below = finisher.candidates([tuple(codes) for codes in np.unique(prefixes_RD, axis=0).tolist()])
    found = finisher.finish(state, below, k=len(rows), allowed_N=allowed_N)
    return {each.row: ScoreParts(each.logprob, each.score - each.logprob) for each in found}
