"""bench/quality/ranking/rank_metrics.py against loops too simple to be wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.quality.ranking.rank_metrics import (
    bootstrap,
    bootstrap_clusters,
    ndcg_at,
    rank_targets,
    recall_at,
)

scores = arrays(np.float64, (4, 7), elements=st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 0.5]))
targets = arrays(np.int64, 4, elements=st.integers(-1, 6))


def naive_rank(scores: list[float], target: int) -> float:
    if target < 0 or scores[target] == -math.inf:
        return math.inf
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    return order.index(target) + 1


@given(scores, targets)
def test_rank_is_the_place_in_the_sorted_catalog(
    scores_BN: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    target_B: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> None:
    expected = [
        naive_rank(row, target)
        for row, target in zip(scores_BN.tolist(), target_B.tolist(), strict=True)
    ]
    assert rank_targets(scores_BN, target_B).tolist() == expected


@pytest.mark.parametrize("k", [5, 10])
def test_recall_and_ndcg_equal_their_definitions(k: int) -> None:
    ranks = np.array([1.0, 2.0, 5.0, 6.0, 10.0, 11.0, math.inf])
    assert recall_at(ranks, k).tolist() == [float(rank <= k) for rank in ranks]
    expected = [1 / math.log2(rank + 1) if rank <= k else 0.0 for rank in ranks]
    assert ndcg_at(ranks, k).tolist() == pytest.approx(expected)


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.2, size=(5000, 1))
    interval = bootstrap(values, seed=1)[0]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=half / 5)
    assert interval.high == pytest.approx(values.mean() + half, abs=half / 5)


def test_bootstrap_of_a_difference_is_paired() -> None:
    """Two noisy columns that differ by a constant differ surely, however wide each one is."""
    noisy = np.random.default_rng(0).normal(size=2000)
    better = noisy + 0.01
    columns = bootstrap(np.stack([noisy, better, better - noisy], axis=1), seed=2)
    assert columns[0].high > columns[1].low
    assert columns[2].low == pytest.approx(0.01)
    assert columns[2].high == pytest.approx(0.01)


def test_bootstrap_repeats_for_a_seed() -> None:
    values = np.random.default_rng(3).random((50, 2))
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7)


def test_events_of_different_users_are_resampled_as_users_are() -> None:
    values_UC = np.random.default_rng(0).random((40, 2))
    columns = {"one": values_UC[:, 0], "two": values_UC[:, 1]}
    found = bootstrap_clusters(columns, np.arange(40), seed=3)
    for interval, expected in zip(found.values(), bootstrap(values_UC, seed=3), strict=True):
        assert interval == pytest.approx(expected)


def test_events_of_one_user_are_drawn_together() -> None:
    """Five copies of each event add no information, and ten users are not fifty."""
    values_U = np.random.default_rng(0).random(10)
    alone = bootstrap_clusters({"x": values_U}, np.arange(10), seed=3)["x"]
    user_E = np.repeat(np.arange(10), 5)
    together = bootstrap_clusters({"x": values_U[user_E]}, user_E, seed=3)["x"]
    assert together == pytest.approx(alone)


def test_ties_of_scores_go_to_the_higher_tie_value_then_to_the_lower_row() -> None:
    scores_BN = np.array([[1.0, 2.0, 1.0, 1.0, -np.inf]] * 5)
    tie_N = np.array([3, 0, 5, 3, 9])
    ranks = rank_targets(scores_BN, np.arange(5), tie_N=tie_N)
    assert ranks.tolist() == [3.0, 1.0, 2.0, 4.0, np.inf]
