"""Applies a batch of the item feed to a learner: new items get SIDs, withdrawn ones leave."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalog.codebooks import Codebooks
from models.catalog.fed_items import FedItem
from models.catalog.growth import assign_sids, describe, grow, item_vectors, withdraw
from models.online.memory.similar_items import SimilarItems
from training.learn.item_growth import TextVectors, grow_similar, item_text
from training.learn.online_learner import OnlineLearner


class ItemGrower:
    """Knows the codebooks and the text vectors of one release."""

    def __init__(self, codebooks: Codebooks, vectors: TextVectors, *, text_weight: float) -> None:
        self._codebooks, self._vectors = codebooks, vectors
        self._text_weight = text_weight

    def apply(self, learner: OnlineLearner, batch: Sequence[FedItem]) -> bool:
        """Apply a batch, of each item its last entry; return whether the catalog changed."""
        last = {item.item_id: item for item in batch}
        gone = [item_id for item_id, item in last.items() if item.withdrawn]
        gone = [item_id for item_id in gone if learner.catalog.row(item_id) is not None]
        kept = [item for item in last.values() if not item.withdrawn]
        new = [item for item in kept if learner.catalog.row(item.item_id) is None]
        known = [item for item in kept if learner.catalog.row(item.item_id) is not None]
        if known:
            learner.catalog = describe(learner.catalog, known)
        if new:
            self._add(learner, new)
        if gone:
            self._remove(learner, gone)
        return bool(known or new or gone)

    def _add(self, learner: OnlineLearner, items: Sequence[FedItem]) -> None:
        self._vectors.add({item.item_id: item_text(item) for item in items})
        text_ME = self._vectors.of([item.item_id for item in items])
        vectors_ME = item_vectors(text_ME, self._codebooks, text_weight=self._text_weight)
        sids = assign_sids(vectors_ME, self._codebooks, learner.catalog)
        grown = grow(learner.catalog, items, sids)
        learner.grow(items, sids, self._similar(learner, grown.catalog.item_ids, grown.row_of_old))

    def _remove(self, learner: OnlineLearner, item_ids: Sequence[str]) -> None:
        shrunk = withdraw(learner.catalog, item_ids)
        similar = self._similar(learner, shrunk.catalog.item_ids, shrunk.row_of_old)
        learner.withdraw(item_ids, similar)

    def _similar(
        self, learner: OnlineLearner, item_ids: Sequence[str], row_of_old: NDArray[np.int64]
    ) -> SimilarItems:
        settings = learner.counts.settings
        vectors_NE = self._vectors.of(item_ids)
        return grow_similar(learner.counts.similar, row_of_old, vectors_NE, settings.num_similar)
