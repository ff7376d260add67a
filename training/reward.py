"""Rewards of a thought by the beam that follows it (Eq. 6 and 7), and alternatives.

Knows codes; knows nothing of text, users or models.
"""

# K = beams after one thought, best first, L = levels of a SID

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalog.sid import Sid
from models.reasoner.beam import Beam

Reward = Callable[[NDArray[np.int64], NDArray[np.int64]], float]


def rollout_beam(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return the most codes that any beam shares with the target by position: 0 to L (Eq. 6)."""
    return float((beams_KL == target_L).sum(axis=1).max())


def exact_hit(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return 1 if the target is among the beams, otherwise 0."""
    return float((beams_KL == target_L).all(axis=1).any())


def top_hit(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return 1 if the target is the best beam: the verifiable pass reward, one answer (4.3)."""
    return float((beams_KL[0] == target_L).all())


def prefix(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return the reward of SIDReasoner for the longest correct prefix of the best beam.

    SIDReasoner adds .1 for an answer that names an item; a constrained beam always does.
    """
    return prefix_weighted(beams_KL[:1], target_L)


def prefix_weighted(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return the reward for the longest correct prefix of any beam.

    It is 1 for all levels and half as much for each missing level. With three levels: .25, .5, 1.
    """
    depth = int(np.minimum.accumulate(beams_KL == target_L, axis=1).sum(axis=1).max())
    return 2.0 ** (depth - len(target_L)) if depth else 0.0


def hit_diversity(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """Return OneReason's exact hit times diversity: distinct first codes / beams."""
    return exact_hit(beams_KL, target_L) * len(np.unique(beams_KL[:, 0])) / len(beams_KL)


REWARDS: dict[str, Reward] = {
    "rollout-beam": rollout_beam,
    "exact-hit": exact_hit,
    "top-hit": top_hit,
    "prefix": prefix,
    "prefix-weighted": prefix_weighted,
    "hit-diversity": hit_diversity,
}


def reward_of(reward: Reward, beams: Sequence[Beam], target: Sid) -> float:
    """Return the reward of one thought; 0 without beams, since the thought never closed."""
    if not beams:
        return 0.0
    beams_KL = np.array([beam.codes for beam in beams], dtype=np.int64)
    return reward(beams_KL, np.array(target, dtype=np.int64))
