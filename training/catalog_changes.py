"""The catalog of a release over newer data: new items get SIDs, items that are gone leave."""

# N = items of a catalog, E = vector width

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.catalog.codebooks import Codebooks
from models.catalog.dataset import Dataset, ItemText
from models.catalog.growth import Grown, assign_sids, grow, item_vectors, withdraw
from models.errors import InvalidInput
from models.online.memory.similar_items import SimilarItems
from models.release.release import Release
from training.item_text import WIDTH, FloatArray, embed_texts
from training.quantize import embed_items
from training.recipe import Recipe
from training.split import split_dataset

logger = logging.getLogger(__name__)


class _NewItem(NamedTuple):
    item_id: str
    title: str | None
    brand: str | None
    categories: tuple[str, ...]


class TextVectors:
    """Vectors of the texts of items, each embedded when it is first asked for."""

    def __init__(self, items: Mapping[str, ItemText]) -> None:
        self._items = items
        self._vectors: dict[str, FloatArray] = {}

    def of(self, item_ids: Sequence[str]) -> FloatArray:
        """Return unit vectors (N, E); zeros without a text."""
        missing = {item: self._items[item] for item in item_ids if item not in self._vectors}
        if missing:
            self._vectors |= zip(missing, embed_texts(missing), strict=True)
        made = [self._vectors[item] for item in item_ids]
        return np.stack(made) if made else np.zeros((0, WIDTH), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class FollowedCatalog:
    """The catalog of a release, with the items of a data set."""

    release: Release
    dataset: Dataset
    recipe: Recipe  # its settings count where the release has none of its own
    texts: TextVectors

    @cached_property
    def codebooks(self) -> Codebooks:
        """Return the codebooks of the release, or find them again for one without.

        Items that are gone have no vector any more, and do not count.
        """
        if (books := self.release.load_codebooks()) is not None:
            return books
        catalog = self.release.catalog
        known = [item for item in catalog.item_ids if item in self.dataset.items]
        items = {item: self.dataset.items[item] for item in known}
        histories = {
            user: [event for event in history if event.item_id in items]
            for user, history in self.dataset.histories.items()
        }
        vectors_NE = embed_items(
            known,
            self.texts.of(known),
            split_dataset(Dataset(histories, items)),
            text_weight=self._text_weight,
            seed=self.recipe.seed,
        )
        sids_NL = catalog.sids[list(catalog.rows(known))]
        return Codebooks.of_items(vectors_NE, sids_NL, catalog.space.sizes)

    @property
    def has_same_items(self) -> bool:
        return self.grown.catalog is self.release.catalog

    @cached_property
    def grown(self) -> Grown:
        """Return the catalog with new items and without those that are gone.

        Raises InvalidInput if all are gone: this is other data.
        """
        catalog = self.release.catalog
        gone = [item for item in catalog.item_ids if item not in self.dataset.items]
        new = [item for item in self.dataset.items if catalog.row(item) is None]
        if len(gone) == len(catalog):
            raise InvalidInput(
                f"{self.release.directory}: none of its items is in the data, expected the data "
                "of this release or newer ones"
            )
        if not gone and not new:
            return Grown(catalog, np.arange(len(catalog)))
        logger.info("%d new items, %d items are gone", len(new), len(gone))
        grown = self._grow(catalog, new)
        left = withdraw(grown.catalog, gone)
        return Grown(left.catalog, left.row_of_old[grown.row_of_old])

    def similar(self, num_similar: int) -> SimilarItems:
        """Take the similar items of the release, or find them for other items or another number."""
        memory = self.release.load_memory() if self.has_same_items else None
        if memory is not None and memory.similar.row_NS.shape[1] == num_similar:
            return memory.similar
        return SimilarItems.of(self.texts.of(self.grown.catalog.item_ids), num_similar)

    def _grow(self, catalog: Catalog, new: Sequence[str]) -> Grown:
        vectors = item_vectors(self.texts.of(new), self.codebooks, text_weight=self._text_weight)
        sids = assign_sids(vectors, self.codebooks, catalog)
        texts = ((item, self.dataset.items[item]) for item in new)
        items = [_NewItem(item, text.title, text.brand, text.categories) for item, text in texts]
        return grow(catalog, items, sids)

    @property
    def _text_weight(self) -> float:
        table = self.release.manifest.recipe.get("quantize", {})
        return float(table.get("text_weight", self.recipe.quantize.text_weight))
