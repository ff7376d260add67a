"""Recall and NDCG of validation users."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Scores(NamedTuple):
    """Figures on validation users: the whole catalog is ranked, except items of the history."""

    recall: float  # at 10
    ndcg: float  # at 10


def scores_of(ranks: Sequence[int], *, num_users: int) -> Scores:
    """Compute recall@10 and NDCG@10.

    ranks: of the targets among the first ten, 0 is best; the other users missed theirs.
    """
    num = max(num_users, 1)
    return Scores(len(ranks) / num, sum(1 / math.log2(rank + 2) for rank in ranks) / num)
