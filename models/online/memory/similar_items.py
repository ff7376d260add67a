"""Items with similar texts, as a second source of neighbours.

Counts know nothing of an item that few users have had; its text does. Items are catalog rows. Knows
nothing of models, texts or SIDs.
"""

# N = catalog rows, S = similar items of each row, E = vector width, P = pairs

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 2048


class SimilarPairs(NamedTuple):
    """An item, an item like it, and the weight of the second as a neighbour of the first."""

    item_P: NDArray[np.int64]
    other_P: NDArray[np.int64]
    weight_P: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SimilarItems:
    """The items with the largest cosine to each item, largest first.

    A place without one has cosine 0.
    """

    row_NS: NDArray[np.int32]  # catalog rows
    cosine_NS: NDArray[np.float32]  # 0 to 1

    @classmethod
    def of(cls, vectors_NE: NDArray[np.float32], num_similar: int) -> "SimilarItems":
        """Compare all items with each other.

        Args:
            vectors_NE: unit vectors; zeros for an item without text, which is like no other.
        """
        num_items = len(vectors_NE)
        num = min(num_similar, max(num_items - 1, 0))
        row_NS = np.zeros((num_items, num), dtype=np.int32)
        cosine_NS = np.zeros((num_items, num), dtype=np.float32)
        for first in range(0, num_items if num else 0, _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            cosine_RN = vectors_NE[part] @ vectors_NE.T
            own_R = np.arange(len(cosine_RN))
            cosine_RN[own_R, first + own_R] = -2.0  # an item is not its own neighbour
            row_NS[part] = np.argpartition(-cosine_RN, num - 1, axis=1)[:, :num]
            cosine_NS[part] = np.take_along_axis(cosine_RN, row_NS[part], axis=1)
        order_NS = np.lexsort((row_NS, -cosine_NS), axis=1)
        cosine_NS = np.take_along_axis(cosine_NS, order_NS, axis=1)
        return cls(np.take_along_axis(row_NS, order_NS, axis=1), cosine_NS.clip(0.0, 1.0))

    @classmethod
    def none(cls, num_items: int) -> "SimilarItems":
        """Return no similar items, for a catalog without texts."""
        shape = (num_items, 0)
        return cls(np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.row_NS)

    def pairs(self, *, weight: float, power: float) -> SimilarPairs:
        """Return the pairs with a cosine above 0, weighing `weight` x cosine ** `power`."""
        item_P, place_P = np.nonzero(self.cosine_NS)
        cosine_P = self.cosine_NS[item_P, place_P].astype(np.float64)
        other_P = self.row_NS[item_P, place_P].astype(np.int64)
        return SimilarPairs(item_P.astype(np.int64), other_P, weight * cosine_P**power)
