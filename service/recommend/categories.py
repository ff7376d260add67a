"""Items of each category, as masks for the model and as lists for the popular rung.

An item belongs to every level of its category path. Knows nothing of users or requests.
"""

from collections import OrderedDict
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import Candidates, from_nodes
from models.catalog.catalog import Catalog

MAX_POPULAR = 4096  # more than a history, exclusions, earlier pages and an answer take together
MAX_KEPT = 32  # masks and trees; a mask takes one byte an item of the catalog


class Category:
    """Items of one category."""

    def __init__(self, catalog: Catalog, rows: NDArray[np.int64]) -> None:
        self.rows = rows  # of the catalog, most popular first
        self._catalog = catalog

    @cached_property
    def popular_rows(self) -> list[int]:
        """First MAX_POPULAR rows, which is all that an answer can need."""
        rows: list[int] = self.rows[:MAX_POPULAR].tolist()
        return rows

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Mask over the catalog's rows, (N,)."""
        allowed_N = np.zeros(len(self._catalog), dtype=bool)
        allowed_N[self.rows] = True
        return allowed_N

    @cached_property
    def candidates(self) -> Candidates:
        """All prefixes that hold an item of the category."""
        trie, depth = self._catalog.trie, self._catalog.space.prefix_depth
        return from_nodes(trie, trie.nodes(self._catalog.sids[self.rows, :depth]))


class Categories:
    """Categories of one catalog, with the masks of the MAX_KEPT most recently used ones."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._kept: OrderedDict[str, Category] = OrderedDict()

    def get(self, name: str) -> Category:
        """Return the category of this name; it is empty if no item has the name."""
        if name not in self._kept:
            rows = self._rows.get(name, np.empty(0, dtype=np.int64))
            self._kept[name] = Category(self._catalog, rows)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        found: dict[str, list[int]] = {}
        for row in by_popularity(self._catalog).tolist():
            for name in dict.fromkeys(self._catalog.categories[row]):
                found.setdefault(name, []).append(row)
        return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}


def by_popularity(catalog: Catalog) -> NDArray[np.int64]:
    """Return all rows by descending number of training interactions; ties by row."""
    return np.argsort(-catalog.popularity, kind="stable")
