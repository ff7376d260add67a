"""A catalog that grows and shrinks while it serves: SIDs of new items, rows of old ones.

No old SID ever moves, so the SID space and all records stay valid. Rows do move: they are sorted
by SID. Knows nothing of models or users.
"""

# M = new items, N = catalog rows, L = levels, E = vector width, V = codes of a level,
# X = known part of a vector, K = nearest items

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.catalog.codebooks import Codebooks, FloatArray
from models.errors import InvalidCatalog

Ints = NDArray[np.int64]
_NUM_NEAR = 10  # old items that tell what a new one lacks
_ROWS_AT_ONCE = 8192


class DescribedItem(Protocol):
    """An item with its texts, such as `FedItem`."""

    @property
    def item_id(self) -> str: ...

    @property
    def title(self) -> str | None: ...

    @property
    def brand(self) -> str | None: ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the categories, from coarse to fine."""


class Grown(NamedTuple):
    """A catalog of other items, and where the old rows are in it."""

    catalog: Catalog
    row_of_old: Ints  # by old row its new row; -1 for an item that has left


def item_vectors(text_ME: FloatArray, codebooks: Codebooks, *, text_weight: float) -> FloatArray:
    """Return the vectors of new items for `assign_sids`: their weighted texts.

    They have no part for the co-occurrence, which a new item does not have. Codebooks narrower than
    a text were made without texts: then they are zero.

    Args:
        text_ME: unit vectors, or zeros without a text.
        text_weight: of the release's recipe, table `quantize`.
    """
    if text_ME.shape[1] > codebooks.width:
        return np.zeros((len(text_ME), codebooks.width), dtype=np.float32)
    weighted: FloatArray = (text_weight**0.5 * text_ME).astype(np.float32)
    return weighted


def assign_sids(
    vectors_ME: FloatArray, codebooks: Codebooks, catalog: Catalog
) -> NDArray[np.int32]:
    """Give new items SIDs, one after the other in the given order: (M, L).

    Every code but the last is that of the nearest centroid. The last code is the nearest that no
    item below the same prefix has. Where all are taken, it is the nearest of those with the fewest
    items, so that SIDs are shared evenly.

    A vector may be narrower than the centroids. What it lacks is guessed: the mean of the items
    that are nearest in the part that it has.
    """
    residual_ME = _complete(vectors_ME, codebooks, catalog)
    columns: list[NDArray[np.int32]] = []
    for book in codebooks.levels[:-1]:
        code_M = _distances(residual_ME, book).argmin(axis=1)
        columns.append(code_M.astype(np.int32))
        residual_ME = residual_ME - book[code_M]
    distance_MV = _distances(residual_ME, codebooks.levels[-1])
    holders = Counter(map(tuple, catalog.sids.tolist()))  # number of items by SID
    last = []
    for row, above in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        num_V = np.array([holders[*above, code] for code in range(distance_MV.shape[1])])
        num_V = np.where(np.isfinite(distance_MV[row]), num_V, np.iinfo(np.int64).max)
        code = int(np.where(num_V == num_V.min(), distance_MV[row], np.inf).argmin())
        holders[*above, code] += 1
        last.append(code)
    return np.stack([*columns, np.array(last, dtype=np.int32)], axis=1)


def grow(catalog: Catalog, items: Sequence[DescribedItem], sids: NDArray[np.integer]) -> Grown:
    """Add items that the catalog does not hold, with their SIDs (M, L) and popularity 0.

    Raises InvalidCatalog for an item that is there already, or given twice.
    """
    seen = set(catalog.item_ids)
    for item in items:
        if item.item_id in seen:
            raise InvalidCatalog(f"item {item.item_id!r} again, expected each item once")
        seen.add(item.item_id)
    longer = Catalog(
        space=catalog.space,
        item_ids=(*catalog.item_ids, *(item.item_id for item in items)),
        sids=np.concatenate([catalog.sids, sids.astype(np.int32)]),
        titles=(*catalog.titles, *(item.title for item in items)),
        brands=(*catalog.brands, *(item.brand for item in items)),
        categories=(*catalog.categories, *(item.categories for item in items)),
        popularity=np.append(catalog.popularity, np.zeros(len(items), dtype=np.int64)),
    )
    _ = longer.trie  # raises for a bad code
    order_N = _serving_order(longer)
    place_N = np.empty(len(order_N), dtype=np.int64)
    place_N[order_N] = np.arange(len(order_N))
    return Grown(_take(longer, order_N), place_N[: len(catalog)])


def withdraw(catalog: Catalog, item_ids: Collection[str]) -> Grown:
    """Remove items; ids that the catalog does not hold are ignored."""
    is_kept = np.ones(len(catalog), dtype=bool)
    is_kept[list(catalog.rows(item_ids))] = False
    return Grown(
        _take(catalog, np.flatnonzero(is_kept)), np.where(is_kept, is_kept.cumsum() - 1, -1)
    )


def describe(catalog: Catalog, items: Sequence[DescribedItem]) -> Catalog:
    """Return the same rows with the texts of some items replaced; their SIDs stay."""
    titles, brands = list(catalog.titles), list(catalog.brands)
    categories = list(catalog.categories)
    for item in items:
        if (row := catalog.row(item.item_id)) is not None:
            titles[row], brands[row], categories[row] = item.title, item.brand, item.categories
    return replace(
        catalog, titles=tuple(titles), brands=tuple(brands), categories=tuple(categories)
    )


def _complete(vectors_MX: FloatArray, codebooks: Codebooks, catalog: Catalog) -> FloatArray:
    """Widen vectors to the width of the centroids.

    The vectors of old items are not kept, but the sums of their centroids are near them. On Beauty
    a new item gets the prefix that it would have with its co-occurrence known in 44% of the cases,
    with zeros in 29%.
    """
    num_known, num_near = vectors_MX.shape[1], min(_NUM_NEAR, len(catalog))
    wide_ME = np.zeros((len(vectors_MX), codebooks.width), dtype=np.float32)
    wide_ME[:, :num_known] = vectors_MX
    if num_known == codebooks.width or not num_near:
        return wide_ME
    cosines = []
    for first in range(0, len(catalog), _ROWS_AT_ONCE):
        part_NX = codebooks.sums(catalog.sids[first : first + _ROWS_AT_ONCE])[:, :num_known]
        norm_N = np.linalg.norm(part_NX, axis=1)
        cosines.append(vectors_MX @ part_NX.T / np.maximum(norm_N, 1e-9))
    distance_MN = -np.concatenate(cosines, axis=1)
    near_MK = np.argpartition(distance_MN, num_near - 1, axis=1)[:, :num_near]
    for row, near_K in enumerate(near_MK):
        wide_ME[row, num_known:] = codebooks.sums(catalog.sids[near_K])[:, num_known:].mean(axis=0)
    return wide_ME


def _distances(vectors_ME: FloatArray, book_VE: FloatArray) -> NDArray[np.float64]:
    """Return squared distances to centroids, less the vectors' own squares; inf without one."""
    book = book_VE.astype(np.float64)
    distance = (book**2).sum(axis=1) - 2 * vectors_ME.astype(np.float64) @ book.T
    return np.where(np.isnan(distance), np.inf, distance)


def _serving_order(catalog: Catalog) -> Ints:
    """Return the rows by SID, the most popular first, ties by item id."""
    packed = catalog.space.pack(catalog.sids)
    order: Ints = np.lexsort((np.array(catalog.item_ids), -catalog.popularity, packed))
    return order


def _take(catalog: Catalog, row_N: Ints) -> Catalog:
    rows = row_N.tolist()
    return replace(
        catalog,
        item_ids=tuple(catalog.item_ids[row] for row in rows),
        sids=catalog.sids[row_N],
        titles=tuple(catalog.titles[row] for row in rows),
        brands=tuple(catalog.brands[row] for row in rows),
        categories=tuple(catalog.categories[row] for row in rows),
        popularity=catalog.popularity[row_N],
    )
