"""Words of the items of a catalog: brand, category paths, and the words of titles, weighted.

Knows catalogs. Knows nothing of users or models.
"""

# N = catalog rows, V = words

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from models.catalog.catalog import Catalog

_TITLE_WORD = re.compile(r"\w{3,}")


@dataclass(frozen=True)
class WordSettings:
    """Words that are kept."""

    min_items: int = 3  # of a word
    max_share: float = 0.1  # of all items; a word of more items tells little


def item_words(catalog: Catalog, settings: WordSettings | None = None) -> sparse.csr_matrix:
    """Return the weight of each word of each item: (N, V), rows of length 1 or 0.

    A weight is log(N / items with the word). Equal catalogs give equal columns.
    """
    settings = settings or WordSettings()
    numbers: dict[str, int] = {}
    item_P, word_P = [], []
    for row in range(len(catalog)):
        for word in sorted(set(_words(catalog, row))):
            item_P.append(row)
            word_P.append(numbers.setdefault(word, len(numbers)))
    shape = len(catalog), len(numbers)
    found = sparse.csr_matrix((np.ones(len(item_P)), (item_P, word_P)), shape)
    num_items_V = np.bincount(word_P, minlength=len(numbers))
    most = settings.max_share * len(catalog)
    is_kept_V = (num_items_V >= settings.min_items) & (num_items_V <= most)
    weight_V = np.log(len(catalog) / num_items_V[is_kept_V])
    return _unit_rows((found[:, is_kept_V] @ sparse.diags(weight_V)).tocsr())


def _words(catalog: Catalog, row: int) -> Iterator[str]:
    """Yield the words of an item, each with a mark of its kind; a word may come twice."""
    if brand := catalog.brands[row]:
        yield f"brand {brand.lower()}"
    path = catalog.categories[row]
    for depth in range(2, len(path) + 1):  # the first part is common to nearly all items
        yield "category " + " > ".join(path[:depth])
    for word in _TITLE_WORD.findall((catalog.titles[row] or "").lower()):
        yield f"title {word}"


def _unit_rows(weight_NV: sparse.csr_matrix) -> sparse.csr_matrix:
    length_N = np.sqrt(np.asarray(weight_NV.multiply(weight_NV).sum(axis=1)).ravel())
    scale_N = np.divide(1.0, length_N, out=np.zeros_like(length_N), where=length_N > 0)
    return (sparse.diags(scale_N) @ weight_NV).tocsr()
