"""Recall and NDCG from ranks, with bootstrap intervals over users.

Knows ranks (1 is best, infinity is "not ranked"). Knows nothing of models, catalogs or files.
"""

# U = users, E = events, C = columns, R = resamples

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Name = TypeVar("Name")
NUM_RESAMPLES = 1000
_CHUNK = 50  # resamples weighted at once: 50 x 22,363 float64 are 9 MB


class Interval(NamedTuple):
    """A mean over users and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return the three columns of a results row."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}

    def signed(self) -> str:
        """Format a difference for the terminal."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def rank_targets(
    scores_BN: NDArray[np.floating],
    target_B: NDArray[np.int64],
    *,
    tie_N: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Return the rank of each user's target among N scored rows, (B,).

    A target below 0 (not in the catalog) or scored -inf (masked) has rank infinity.

    Args:
        tie_N: decides between equal scores, higher values first; then the lower row is first.
    """
    at_B = np.arange(len(target_B))
    known_B = target_B >= 0
    row_B = np.where(known_B, target_B, 0)
    own_B1 = scores_BN[at_B, row_B][:, None]
    above_B = (scores_BN > own_B1).sum(axis=1)
    first_BN = np.arange(scores_BN.shape[1]) < row_B[:, None]
    if tie_N is not None:
        own_tie_B1 = tie_N[row_B][:, None]
        first_BN = (tie_N > own_tie_B1) | ((tie_N == own_tie_B1) & first_BN)
    rank_B = 1.0 + above_B + ((scores_BN == own_B1) & first_BN).sum(axis=1)
    return np.where(known_B & np.isfinite(own_B1[:, 0]), rank_B, np.inf)


def recall_at(rank_U: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return 1 where the target is among the first k, otherwise 0.

    With one left-out item, recall equals the hit rate.
    """
    return (rank_U <= k).astype(np.float64)


def ndcg_at(rank_U: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return 1 / log2(1 + rank) where the target is among the first k, otherwise 0."""
    return np.where(rank_U <= k, 1.0 / np.log2(1.0 + rank_U), 0.0)


def bootstrap(values_UC: NDArray[np.float64], *, seed: int) -> list[Interval]:
    """Return the mean and the 95% percentile interval of every column.

    All columns use the same resamples of users. The interval of a column of differences is
    therefore the paired one.
    """
    means_RC = _resampled_means(values_UC, np.random.default_rng(seed))
    low_C, high_C = np.percentile(means_RC, [2.5, 97.5], axis=0)
    columns = zip(values_UC.mean(axis=0), low_C, high_C, strict=True)
    return [Interval(float(mean), float(low), float(high)) for mean, low, high in columns]


def bootstrap_named(
    columns: Mapping[Name, NDArray[np.float64]], *, seed: int
) -> dict[Name, Interval]:
    """Apply `bootstrap` to named columns over the same users."""
    intervals = bootstrap(np.stack(list(columns.values()), axis=1), seed=seed)
    return dict(zip(columns, intervals, strict=True))


def bootstrap_clusters(
    columns: Mapping[Name, NDArray[np.float64]], user_E: NDArray[np.int64], *, seed: int
) -> dict[Name, Interval]:
    """Return means over events and their 95% intervals over resampled users.

    Events of one user are not independent, so that users are drawn. All columns use the same draws.

    Args:
        columns: values of the events, each (E,).
        user_E: number of the user of each event.
    """
    values_EC = np.stack(list(columns.values()), axis=1)
    _, at_E = np.unique(user_E, return_inverse=True)
    size_U = np.bincount(at_E).astype(np.float64)
    sums_UC = np.stack([np.bincount(at_E, values_E) for values_E in values_EC.T], axis=1)
    means_RC = np.concatenate(
        [
            weights_RU @ sums_UC / (weights_RU @ size_U)[:, None]
            for weights_RU in _draw_weights(len(size_U), np.random.default_rng(seed))
        ]
    )
    low_C, high_C = np.percentile(means_RC, [2.5, 97.5], axis=0)
    ends = zip(values_EC.mean(axis=0), low_C, high_C, strict=True)
    intervals = [Interval(float(mean), float(low), float(high)) for mean, low, high in ends]
    return dict(zip(columns, intervals, strict=True))


def _resampled_means(
    values_UC: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return means over resampled users, (R, C), weighted by the draws of each user."""
    num_users = len(values_UC)
    means = [weights_RU @ values_UC / num_users for weights_RU in _draw_weights(num_users, rng)]
    return np.concatenate(means)


def _draw_weights(num: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield resamples in chunks: how often each of `num` is drawn."""
    for _ in range(NUM_RESAMPLES // _CHUNK):
        draws = rng.integers(num, size=(_CHUNK, num))
        yield np.stack([np.bincount(draw, minlength=num) for draw in draws]).astype(np.float64)
