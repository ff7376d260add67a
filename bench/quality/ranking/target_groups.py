"""Groups of users by their target: its day, and how often it was trained on."""

# U = users, N = catalog rows

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case, target_rows

SAME_DAY, OTHER_DAY = "same_day", "other_day"  # as the item before it, or not
NEVER, FEW, MORE = "trained_never", "trained_1_to_3", "trained_more"
_FEW = 3

Groups = dict[str, NDArray[np.bool_]]  # name -> users, (U,)


def group_targets(cases: Sequence[Case], trained_N: NDArray[np.int64]) -> Groups:
    """Return the users of each group; a user is in one group by day and in one by age.

    Args:
        trained_N: how often each item was trained on.
    """
    is_same_U = np.array([case.is_same_day for case in cases], dtype=bool)
    target_U = target_rows(cases)
    times_U = np.where(target_U >= 0, trained_N[target_U], 0)
    return {
        SAME_DAY: is_same_U,
        OTHER_DAY: ~is_same_U,
        NEVER: times_U == 0,
        FEW: (times_U > 0) & (times_U <= _FEW),
        MORE: times_U > _FEW,
    }


def count_groups(groups: Groups) -> dict[str, int]:
    return {name: int(has_U.sum()) for name, has_U in groups.items()}
