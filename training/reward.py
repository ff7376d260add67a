"""What a thought earns by the beam that follows it (Eq. 6 and 7), and other ways to pay for it.

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
    """The most codes, place by place, that any beam shares with the target: 0 to L (Eq. 6)."""
    return float((beams_KL == target_L).sum(axis=1).max())


def exact_hit(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """1 if the target is among the beams."""
    return float((beams_KL == target_L).all(axis=1).any())


def top_hit(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """1 if the target is the best beam: the verifiable pass reward, one answer a thought (4.3)."""
    return float((beams_KL[0] == target_L).all())


def prefix_weighted(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """SIDReasoner's .25, .5 and 1 for one, two and all of three levels right from the first on;
    half as much for each level that is missing. The best of the beams."""
    depth = int(np.minimum.accumulate(beams_KL == target_L, axis=1).sum(axis=1).max())
    return 2.0 ** (depth - len(target_L)) if depth else 0.0


def hit_diversity(beams_KL: NDArray[np.int64], target_L: NDArray[np.int64]) -> float:
    """OneReason's hit times diversity: the share of beams with a first code of their own."""
    return exact_hit(beams_KL, target_L) * len(np.unique(beams_KL[:, 0])) / len(beams_KL)


REWARDS: dict[str, Reward] = {
    "rollout-beam": rollout_beam,
    "exact-hit": exact_hit,
    "top-hit": top_hit,
    "prefix-weighted": prefix_weighted,
    "hit-diversity": hit_diversity,
}


def pay(reward: Reward, beams: Sequence[Beam], target: Sid) -> float:
    """Of one thought. None that never closed has beams: it earns nothing."""
    if not beams:
        return 0.0
    beams_KL = np.array([beam.codes for beam in beams], dtype=np.int64)
    return reward(beams_KL, np.array(target, dtype=np.int64))
