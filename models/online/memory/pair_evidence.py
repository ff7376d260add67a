"""Evidence of the memory taken apart: which item of a history gives how much of it, and why.

For people who look at a list. Knows catalog rows. Knows nothing of models or requests.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.online.memory.neighbours import NUM_REASONS, Neighbours
from models.online.memory.pair_file import PairFile


class PairEvidence(NamedTuple):
    """Evidence that one item of a history gives for a recommended one."""

    item: int  # catalog row of the history
    share: float  # of all evidence for the recommended item, 0 to 1
    times: float  # that both came near each other, a near one more; 0: not counted
    cosine: float  # of the two texts; 0: not among the most similar


class Evidence(NamedTuple):
    """Evidence of a history for one recommended item."""

    pairs: tuple[PairEvidence, ...]  # most first, at most NUM_REASONS
    words: float  # share of all evidence that comes from similar texts, 0 to 1


def take_apart(
    neighbours: Neighbours, recent: NDArray[np.integer], row: int, file: PairFile
) -> Evidence:
    """Take the evidence for one row apart; without evidence there is no pair.

    Args:
        recent: catalog rows of the history's newest items, newest first.
        file: counts and similar items behind the neighbours.
    """
    given = neighbours.given(recent, [row])[0]
    total = sum(given.values())
    if not total:
        return Evidence((), 0.0)
    facts = {item: file.pair(item, row) for item in given}
    settings, words = neighbours.settings, 0.0
    for item, evidence in given.items():
        of_text = settings.similar_weight * facts[item].cosine ** settings.similar_power
        words += evidence / total * min(of_text / neighbours.weight(item, row), 1.0)
    ranked = sorted(given, key=lambda item: -given[item])[:NUM_REASONS]
    pairs = (PairEvidence(item, given[item] / total, *facts[item]) for item in ranked)
    return Evidence(tuple(pairs), words)
