"""New items for a learner: their vectors, their SIDs, and the items with similar texts.

Text vectors of all items are kept in a file, since the sentence model takes minutes for a catalog.
"""

# N = rows of the grown catalog, M = new items, S = similar items, E = vector width

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from models.catalog.catalog import Catalog
from models.catalog.dataset import ItemText
from models.catalog.fed_items import FedItem
from models.online.memory.similar_items import SimilarItems

FloatArray = NDArray[np.float32]
Embed = Callable[[Mapping[str, ItemText]], FloatArray]  # unit vectors of texts, in their order


class TextVectors:
    """Text vectors of items by id."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._vectors: dict[str, FloatArray] = {}

    def add(self, items: Mapping[str, ItemText]) -> None:
        """Embed the items that have no vector yet."""
        missing = {item_id: text for item_id, text in items.items() if item_id not in self._vectors}
        if missing:
            self._vectors |= zip(missing, self._embed(missing), strict=True)

    def of(self, item_ids: Sequence[str]) -> FloatArray:
        return np.stack([self._vectors[item_id] for item_id in item_ids])

    def put(self, item_ids: Sequence[str], vectors_NE: FloatArray) -> None:
        self._vectors |= zip(item_ids, vectors_NE, strict=True)


def catalog_vectors(catalog: Catalog, embed: Embed, file: Path) -> TextVectors:
    """Embed the texts of a catalog, or read them from the file of an earlier run."""
    vectors = TextVectors(embed)
    texts = catalog_texts(catalog)
    of = hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest()
    if file.exists():
        with safe_open(file, "np") as stored:
            if stored.metadata().get("of") == of:
                vectors.put(catalog.item_ids, stored.get_tensor("vectors"))
                return vectors
    vectors.add(texts)
    draft = file.with_suffix(".draft")
    save_file({"vectors": vectors.of(catalog.item_ids)}, draft, {"of": of})
    draft.replace(file)
    return vectors


def catalog_texts(catalog: Catalog) -> dict[str, ItemText]:
    columns = zip(catalog.titles, catalog.brands, catalog.categories, strict=True)
    return {
        item_id: ItemText(*texts) for item_id, texts in zip(catalog.item_ids, columns, strict=True)
    }


def item_text(item: FedItem) -> ItemText:
    return ItemText(item.title, item.brand, item.categories)


def grow_similar(
    similar: SimilarItems, row_of_old: NDArray[np.int64], vectors_NE: FloatArray, num_similar: int
) -> SimilarItems:
    """Return the similar items over the rows of a grown catalog.

    A new item is compared with all items, an old one with the new ones alone. A withdrawn item
    leaves an empty place.

    Args:
        row_of_old: the new row of each old one; -1 for a withdrawn item.
        vectors_NE: unit vectors of all rows of the grown catalog.
    """
    num_items = len(vectors_NE)
    if not num_similar:
        return SimilarItems.none(num_items)
    is_kept = row_of_old >= 0
    is_new_N = np.ones(num_items, dtype=bool)
    is_new_N[row_of_old[is_kept]] = False
    row_NS = np.zeros((num_items, num_similar), dtype=np.int32)
    cosine_NS = np.full((num_items, num_similar), -1.0, dtype=np.float32)
    old_row_NS = row_of_old[similar.row_NS[is_kept]]
    num_old = old_row_NS.shape[1]
    row_NS[row_of_old[is_kept], :num_old] = old_row_NS.clip(0)
    is_there = (old_row_NS >= 0) & (similar.cosine_NS[is_kept] > 0)
    cosine_NS[row_of_old[is_kept], :num_old] = np.where(is_there, similar.cosine_NS[is_kept], -1.0)
    new_M = np.flatnonzero(is_new_N)
    for row in new_M.tolist():
        cosine_N = vectors_NE @ vectors_NE[row]
        cosine_N[row] = -1.0
        best = np.lexsort((np.arange(num_items), -cosine_N))[:num_similar]
        row_NS[row, : len(best)], cosine_NS[row, : len(best)] = best, cosine_N[best]
        _offer(row_NS, cosine_NS, row, cosine_N, ~is_new_N)
    cosine_NS = cosine_NS.clip(0.0, 1.0)
    return SimilarItems(np.where(cosine_NS > 0, row_NS, 0).astype(np.int32), cosine_NS)


def _offer(
    row_NS: NDArray[np.int32],
    cosine_NS: FloatArray,
    row: int,
    cosine_N: FloatArray,
    is_old_N: NDArray[np.bool_],
) -> None:
    """Put a new item into the lists of old items in which it beats the last place."""
    for other in np.flatnonzero(is_old_N & (cosine_N > cosine_NS[:, -1])).tolist():
        at = int((cosine_NS[other] >= cosine_N[other]).sum())
        row_NS[other, at + 1 :] = row_NS[other, at:-1].copy()
        cosine_NS[other, at + 1 :] = cosine_NS[other, at:-1].copy()
        row_NS[other, at], cosine_NS[other, at] = row, cosine_N[other]
