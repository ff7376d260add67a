"""Statistics of an online experiment: lift of an arm over another, with intervals.

Every metric is a ratio of two sums over users, `numerator / denominator`; the denominator of a
metric per user is 1. Users are independent of each other, but the actions of one user are not.
Variances are therefore computed over users, by the delta method. Knows nothing of logs.
"""

# U = users of an arm

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Z_95 = 1.959963984540054


class Ratio(NamedTuple):
    """A metric in one arm."""

    value: float
    variance: float  # of `value`, not of one user
    num_users: int

    @property
    def half_width(self) -> float:
        """Return half the width of the 95% interval."""
        return Z_95 * math.sqrt(self.variance)


class Lift(NamedTuple):
    """Comparison of treatment and control, with 95% intervals."""

    difference: float
    low: float
    high: float
    relative: float | None  # None if the control is 0
    relative_low: float | None  # None if the control or the treatment is 0
    relative_high: float | None
    p_value: float  # two-sided, of equal values


def ratio(numerator_U: NDArray[np.float64], denominator_U: NDArray[np.float64]) -> Ratio | None:
    """Return the metric; None for a denominator of 0 or fewer than two users."""
    num_users, total = len(numerator_U), float(denominator_U.sum())
    if num_users < 2 or total == 0:
        return None
    value = float(numerator_U.sum()) / total
    residual_U = numerator_U - value * denominator_U  # the delta method's linear part
    variance = float(residual_U.var(ddof=1)) * num_users / total**2
    return Ratio(value, variance, num_users)


def compare(treatment: Ratio, control: Ratio) -> Lift:
    difference = treatment.value - control.value
    error = math.sqrt(treatment.variance + control.variance)
    half = Z_95 * error
    p_value = float(2 * stats.norm.sf(abs(difference) / error)) if error else float(not difference)
    relative, low, high = _relative(treatment, control)
    return Lift(difference, difference - half, difference + half, relative, low, high, p_value)


def sample_ratio_p(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the p-value of the chi-squared test that users fall into arms by `shares`.

    Args:
        counts: users by arm.
        shares: positive, by arm; need not sum to 1. An arm without users counts too.
    """
    total, whole = sum(counts.values()), sum(shares.values())
    if len(shares) < 2 or not total:
        return 1.0
    expected = {arm: total * share / whole for arm, share in shares.items()}
    distance = sum((counts.get(arm, 0) - mean) ** 2 / mean for arm, mean in expected.items())
    return float(stats.chi2.sf(distance, len(shares) - 1))


def _relative(treatment: Ratio, control: Ratio) -> tuple[float | None, float | None, float | None]:
    """Return treatment / control - 1 with its interval, which is symmetric on a log scale."""
    if control.value <= 0:
        return None, None, None
    quotient = treatment.value / control.value
    if treatment.value <= 0:
        return quotient - 1, None, None
    error = math.sqrt(treatment.variance / treatment.value**2 + control.variance / control.value**2)
    widest = math.exp(Z_95 * error)
    return quotient - 1, quotient / widest - 1, quotient * widest - 1
