"""A memory over the rows of another catalog: after items came, or were withdrawn."""

# N = catalog rows, P = pairs, S = similar items of each row, R = new rows, E = vector width

import numpy as np
from numpy.typing import NDArray

from models.online.memory.memory import Memory
from models.online.memory.pair_counts import Counts, Ints, PairCounts
from models.online.memory.similar_items import SimilarItems


def remap(memory: Memory, row_of_old: Ints, num_items: int) -> Memory:
    """Move a memory to `num_items` new rows; the new items have neither counts nor similar items.

    row_of_old: by old row its new row, -1 for an item that has left.
    """
    counts = remap_counts(memory.counts, row_of_old, num_items)
    return Memory(counts, remap_similar(memory.similar, row_of_old, num_items), memory.settings)


def remap_counts(counts: PairCounts, row_of_old: Ints, num_items: int) -> PairCounts:
    """Move counts to new rows. Pairs with an item that has left are dropped; totals stay."""
    item_P, later_P = row_of_old[counts.items()], row_of_old[counts.later_items()]
    kept = np.flatnonzero((item_P >= 0) & (later_P >= 0))
    pair_P = item_P[kept] * num_items + later_P[kept]
    order = np.argsort(pair_P)
    return PairCounts(
        num_items,
        pair_P[order],
        counts.count_P[kept][order],
        _move(counts.item_total_N, row_of_old, num_items),
        _move(counts.later_total_N, row_of_old, num_items),
    )


def remap_similar(similar: SimilarItems, row_of_old: Ints, num_items: int) -> SimilarItems:
    """Move similar items to new rows; one that has left leaves a place with cosine 0, the last."""
    num_similar = similar.row_NS.shape[1]
    row_NS = np.zeros((num_items, num_similar), dtype=np.int32)
    cosine_NS = np.zeros((num_items, num_similar), dtype=np.float32)
    kept = np.flatnonzero(row_of_old >= 0)
    other = row_of_old[similar.row_NS[kept]]
    row_NS[row_of_old[kept]] = np.maximum(other, 0)
    cosine_NS[row_of_old[kept]] = np.where(other >= 0, similar.cosine_NS[kept], 0)
    return _largest(row_NS, cosine_NS, num_similar)


def add_similar(
    similar: SimilarItems, vectors_NE: NDArray[np.float32], row_R: Ints
) -> SimilarItems:
    """Find the similar items of new rows, and enter those rows into the lists of all others.

    Args:
        vectors_NE: unit vectors of the texts of all rows; zeros without a text.
        row_R: rows without similar items so far.
    """
    num_similar = similar.row_NS.shape[1]
    if not len(row_R) or not num_similar:
        return similar
    cosine_NR = (vectors_NE @ vectors_NE[row_R].T).clip(0.0, 1.0).astype(np.float32)
    cosine_NR[row_R, np.arange(len(row_R))] = 0  # an item is not its own neighbour
    entered = np.broadcast_to(row_R.astype(np.int32), cosine_NR.shape)
    made = _largest(
        np.concatenate([similar.row_NS, entered], axis=1),
        np.concatenate([similar.cosine_NS, cosine_NR], axis=1),
        num_similar,
    )
    every = np.broadcast_to(np.arange(len(similar), dtype=np.int32), cosine_NR.T.shape)
    own = _largest(every, cosine_NR.T, num_similar)
    width = own.row_NS.shape[1]
    made.row_NS[row_R] = made.cosine_NS[row_R] = 0
    made.row_NS[row_R, :width], made.cosine_NS[row_R, :width] = own.row_NS, own.cosine_NS
    return made


def _largest(row_NC: NDArray[np.int32], cosine_NC: NDArray[np.float32], num: int) -> SimilarItems:
    """Keep the `num` largest cosines of each row, largest first, ties by row."""
    order = np.lexsort((row_NC, -cosine_NC), axis=1)[:, :num]
    cosine = np.take_along_axis(cosine_NC, order, axis=1)
    row = np.where(cosine > 0, np.take_along_axis(row_NC, order, axis=1), 0)
    return SimilarItems(row.astype(np.int32), cosine)


def _move(total_N: Counts, row_of_old: Ints, num_items: int) -> Counts:
    moved = np.zeros(num_items)
    kept = row_of_old >= 0
    moved[row_of_old[kept]] = total_N[kept]
    return moved
