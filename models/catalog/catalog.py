"""The catalog: all items that can be recommended, with their SIDs.

Rows are sorted by (SID, most popular first, item id), so the items that share a SID are contiguous
and already in serving order. Knows nothing of users or models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.catalog.dataset import ItemText
from models.catalog.sid import Prefix, SidSpace
from models.catalog.trie import CatalogTrie
from models.errors import InvalidCatalog, InvalidSid

_PIECE = 100  # rows that are converted at once
_DIGITS = 6  # of a weighted count; sums of weights such as 0.1 are a little off


@dataclass(frozen=True, eq=False)
class Catalog:
    """N items, one a row."""

    space: SidSpace
    item_ids: tuple[str, ...]
    sids: NDArray[np.int32]  # (N, L)
    titles: tuple[str | None, ...]
    brands: tuple[str | None, ...]
    categories: tuple[tuple[str, ...], ...]  # each from coarse to fine
    popularity: NDArray[np.int64]  # (N,), training interactions; weighted ones are rounded up
    # Read where captions are made, in training; a release's file has none.
    descriptions: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.item_ids)

    def row(self, item_id: str) -> int | None:
        """Return the row of an item; None if this catalog does not hold it."""
        return self._rows.get(item_id)

    def rows(self, item_ids: Iterable[str]) -> tuple[int, ...]:
        """Return the rows of the items that this catalog holds, in the order given."""
        found = map(self._rows.get, item_ids)
        return tuple([row for row in found if row is not None])

    def rows_below(self, prefix: Prefix) -> range:
        """Return the rows of the items whose SIDs begin with `prefix`."""
        low, high = 0, len(self)
        for level, code in enumerate(prefix):
            codes = self.sids[low:high, level]
            first, end = np.searchsorted(codes, [code, code + 1]).tolist()
            low, high = low + first, low + end
        return range(low, high)

    @cached_property
    def trie(self) -> CatalogTrie:
        try:
            return CatalogTrie(self.space, self.sids)
        except InvalidSid as exc:
            raise InvalidCatalog(f"catalog: {exc}") from exc

    @cached_property
    def first_row(self) -> NDArray[np.int64]:
        """Return the first row of each SID of the trie, and at the end N: (number of SIDs + 1,).

        Rows first_row[i] to first_row[i + 1] - 1 share the trie's i-th SID.
        """
        leaves = self.trie.packed[-1]
        bounds = np.append(leaves, leaves[-1:] + 1) if len(leaves) else np.zeros(1, dtype=np.int64)
        return np.searchsorted(self.space.pack(self.sids), bounds)

    def with_popularity(self, popularity: Mapping[str, float]) -> "Catalog":
        """Return the same rows with other counts; items that are not counted have 0."""
        return replace(self, popularity=_whole_counts(self.item_ids, popularity))

    def described(self, items: Mapping[str, ItemText]) -> "Catalog":
        """Return the same rows with the descriptions of a data folder."""
        texts = (items.get(item_id) for item_id in self.item_ids)
        return replace(self, descriptions=tuple(text and text.description for text in texts))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def save(self, file: Path) -> None:
        levels = {f"code_{level}": self.sids[:, level] for level in range(self.space.levels)}
        table = pa.table(
            {
                "item_id": pa.array(self.item_ids, pa.string()),
                **levels,
                "title": pa.array(self.titles, pa.string()),
                "brand": pa.array(self.brands, pa.string()),
                "categories": pa.array(
                    [list(path) for path in self.categories], pa.list_(pa.string())
                ),
                "popularity": self.popularity,
            }
        )
        pq.write_table(table, file, compression="zstd")


def build_catalog(
    space: SidSpace,
    sids: Mapping[str, Sequence[int]],
    items: Mapping[str, ItemText],
    popularity: Mapping[str, float],
) -> Catalog:
    """Sort items into serving order. Raises InvalidCatalog for a bad SID or an unknown item."""
    for item_id, sid in sids.items():
        if len(sid) != space.levels or item_id not in items:
            raise InvalidCatalog(
                f"item {item_id!r}: SID {tuple(sid)}, expected {space.levels} codes"
            )
        try:
            space.check(sid)
        except InvalidSid as exc:
            raise InvalidCatalog(f"item {item_id!r}: {exc}") from exc
    order = sorted(sids, key=lambda item: (tuple(sids[item]), -popularity.get(item, 0), item))
    return Catalog(
        space=space,
        item_ids=tuple(order),
        sids=np.array([sids[item] for item in order], dtype=np.int32).reshape(-1, space.levels),
        titles=tuple(items[item].title for item in order),
        brands=tuple(items[item].brand for item in order),
        categories=tuple(items[item].categories for item in order),
        popularity=_whole_counts(order, popularity),
    )


def _whole_counts(item_ids: Iterable[str], popularity: Mapping[str, float]) -> NDArray[np.int64]:
    """Round weighted counts up, so that an item that was counted at all keeps a popularity."""
    counts = (popularity.get(item, 0) for item in item_ids)
    return np.array([ceil(round(count, _DIGITS)) for count in counts], dtype=np.int64)


def popular_prefixes(catalog: Catalog, count: int) -> tuple[Prefix, ...]:
    """Return the `count` prefixes with the most training interactions, most popular first."""
    depth = catalog.space.prefix_depth
    nodes_N = catalog.trie.nodes(catalog.sids[:, :depth])
    weight_P = np.bincount(
        nodes_N, weights=catalog.popularity, minlength=len(catalog.trie.packed[depth])
    )
    order = np.argsort(-weight_P, kind="stable")[:count]
    return tuple(tuple(codes) for codes in catalog.trie.prefixes()[order].tolist())


def popular_items(catalog: Catalog, count: int) -> tuple[str, ...]:
    """Return the `count` items with the most training interactions, ties by item id."""
    ranked = sorted(
        range(len(catalog)), key=lambda row: (-int(catalog.popularity[row]), catalog.item_ids[row])
    )
    return tuple(catalog.item_ids[row] for row in ranked[:count])


def load_catalog(file: Path, space: SidSpace) -> Catalog:
    """Read a file of `Catalog.save`. Raises InvalidCatalog, which names file and row."""
    try:
        with pq.ParquetFile(file) as opened:  # read_table would import pandas where it is installed
            columns = _to_lists(opened.read())
        sids = np.array(
            [columns[f"code_{level}"] for level in range(space.levels)], dtype=np.int32
        ).T
        catalog = Catalog(
            space=space,
            item_ids=tuple(columns["item_id"]),
            sids=np.ascontiguousarray(sids),
            titles=tuple(columns["title"]),
            brands=tuple(columns["brand"]),
            categories=tuple(tuple(path) for path in columns["categories"]),
            popularity=np.array(columns["popularity"], dtype=np.int64),
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as exc:
        raise InvalidCatalog(f"{file}: not a catalog ({type(exc).__name__}: {exc})") from exc
    _check_order(file, catalog)
    return catalog


def _to_lists(table: "pa.Table") -> dict[str, list[Any]]:
    """Convert a table a piece at a time: other threads of a service wait for each piece."""
    columns: dict[str, list[Any]] = {name: [] for name in table.column_names}
    for batch in table.to_batches(max_chunksize=_PIECE):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns[name] += column.to_pylist()
    return columns


def _check_order(file: Path, catalog: Catalog) -> None:
    if len(set(catalog.item_ids)) != len(catalog):
        raise InvalidCatalog(f"{file}: repeated item ids, expected each once")
    for row, sid in enumerate(catalog.sids.tolist()):
        try:
            catalog.space.check(sid)
        except InvalidSid as exc:
            raise InvalidCatalog(f"{file}:{row}: {exc}") from exc
    packed = catalog.space.pack(catalog.sids)
    if (np.diff(packed) < 0).any():
        row = int(np.argmax(np.diff(packed) < 0)) + 1
        raise InvalidCatalog(f"{file}:{row}: SID below the row before, expected ascending SIDs")
