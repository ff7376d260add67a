"""Item-to-item ridge regression over users and words: what an item's users and words expect.

Column j of the weights predicts item j of a user from the user's other items, as EASE (Steck, 2019)
and SLIM (Ning and Karypis, 2011) do. Words are rows beside those of the users, so an item that few
people have had is predicted by items with its words. Each column is solved over the items that
share most with j, so time and memory grow with the number of items and not with its square.
"""

# N = catalog rows, U = users, Z = users and words, K = items of a column, P = weights

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from models.catalog.catalog import Catalog
from models.night.item_words import item_words
from models.night.night_items import EVIDENCE, NightItems
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class RidgeSettings:
    """Settings of the regression, chosen on Beauty's validation users."""

    num_candidates: int = 100  # items that may have a weight in a column
    ridge: float = 50.0  # added to the diagonal
    word_weight: float = 5.0  # of the words of an item, as a number of users


class _Column(NamedTuple):
    item_K: NDArray[np.int64]  # ascending
    weight_K: NDArray[np.float64]


def fit_night_items(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    *,
    settings: RidgeSettings | None = None,
    evidence: MemorySettings = EVIDENCE,
) -> NightItems:
    """Fit to the histories of users, as catalog rows, and to the words of all items."""
    words_NV = item_words(catalog)
    return NightItems(fit_ridge(histories, words_NV, settings or RidgeSettings(), evidence))


def fit_ridge(
    histories: Sequence[Sequence[int]],
    words_NV: sparse.csr_matrix,
    settings: RidgeSettings,
    kept: MemorySettings,
) -> Neighbours:
    """Fit; return the positive weights of each item for other items, as neighbours.

    Args:
        histories: catalog rows of each user; an item that comes twice counts once.
        words_NV: weights of the words of each item (`item_words`).
        kept: settings of the evidence, and the number of weights that are kept for an item.
    """
    rows_ZN = _rows(histories, words_NV, settings.word_weight)
    num_items = rows_ZN.shape[1]
    item_P, other_P, weight_P = [], [], []
    for other, column in enumerate(_columns(rows_ZN, settings)):
        is_positive = column.weight_K > 0
        item_P.append(column.item_K[is_positive])
        other_P.append(np.full(int(is_positive.sum()), other))
        weight_P.append(column.weight_K[is_positive])
    return Neighbours.of_pairs(
        kept,
        num_items,
        np.concatenate(item_P),
        np.concatenate(other_P),
        np.concatenate(weight_P),
    )


def _rows(
    histories: Sequence[Sequence[int]], words_NV: sparse.csr_matrix, word_weight: float
) -> sparse.csc_matrix:
    """Return users and words as rows over items: (Z, N)."""
    distinct = [sorted(set(history)) for history in histories]
    first_U = np.cumsum([0, *map(len, distinct)])
    item_P = np.fromiter((row for rows in distinct for row in rows), np.int64, int(first_U[-1]))
    users_UN = sparse.csr_matrix(
        (np.ones(len(item_P)), item_P, first_U), (len(distinct), words_NV.shape[0])
    )
    return sparse.vstack([users_UN, np.sqrt(word_weight) * words_NV.T]).tocsc()


def _columns(rows_ZN: sparse.csc_matrix, settings: RidgeSettings) -> Iterator[_Column]:
    items_NZ = rows_ZN.T.tocsr()
    for start in range(0, rows_ZN.shape[1], _ROWS_AT_ONCE):
        shared_BN = (items_NZ[start : start + _ROWS_AT_ONCE] @ rows_ZN).toarray()
        for at, shared_N in enumerate(shared_BN):
            yield _column(rows_ZN, start + at, shared_N, settings)


def _column(
    rows_ZN: sparse.csc_matrix, item: int, shared_N: NDArray[np.float64], settings: RidgeSettings
) -> _Column:
    """Solve for one item. shared_N: its products with all items."""
    shared_N[item] = 0
    num = min(settings.num_candidates, int(np.count_nonzero(shared_N > 0)))
    if not num:
        return _Column(np.empty(0, np.int64), np.empty(0))
    item_K = np.sort(np.argpartition(-shared_N, num - 1)[:num])
    chosen_ZK = rows_ZN[:, item_K]
    gram_KK = (chosen_ZK.T @ chosen_ZK).toarray()
    gram_KK[np.diag_indices(num)] += settings.ridge
    return _Column(item_K, linalg.solve(gram_KK, shared_N[item_K], assume_a="pos"))
