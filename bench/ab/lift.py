"""What an arm adds over another, with intervals: the statistics of an online experiment.

Every metric is a ratio of two sums over users, `numerator / denominator`; per user, the denominator
is 1. Users are independent of each other, what one user does is not: variances are by user, with
the delta method. Knows nothing of logs.
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
    """A metric in one arm. variance: of the value itself, not of one user."""

    value: float
    variance: float
    num_users: int

    @property
    def half_width(self) -> float:
        """Of the 95% interval."""
        return Z_95 * math.sqrt(self.variance)


class Lift(NamedTuple):
    """Treatment against control. relative: None where the control is 0, its interval also where the
    treatment is. p_value: two-sided, that both are the same."""

    difference: float
    low: float
    high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p_value: float


def ratio(numerator_U: NDArray[np.float64], denominator_U: NDArray[np.float64]) -> Ratio | None:
    """None where there is nothing to divide by, or fewer than two users to vary."""
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
    """Chi-squared: how likely counts this uneven are if users fall into arms by `shares`.

    shares: positive, by arm; they need not sum to 1. An arm that nobody is in counts as well.
    """
    total, whole = sum(counts.values()), sum(shares.values())
    if len(shares) < 2 or not total:
        return 1.0
    expected = {arm: total * share / whole for arm, share in shares.items()}
    distance = sum((counts.get(arm, 0) - mean) ** 2 / mean for arm, mean in expected.items())
    return float(stats.chi2.sf(distance, len(shares) - 1))


def _relative(treatment: Ratio, control: Ratio) -> tuple[float | None, float | None, float | None]:
    """Treatment over control, less 1, and its interval, symmetric on a log scale."""
    if control.value <= 0:
        return None, None, None
    quotient = treatment.value / control.value
    if treatment.value <= 0:
        return quotient - 1, None, None
    error = math.sqrt(treatment.variance / treatment.value**2 + control.variance / control.value**2)
    widest = math.exp(Z_95 * error)
    return quotient - 1, quotient / widest - 1, quotient * widest - 1
