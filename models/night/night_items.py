"""The items that a night finds likely for a user, with what they add to the online scores.

Knows catalog rows and histories. Knows nothing of reasoners, records or stores.
"""

# R = rows with evidence

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from models.catalog.catalog import Catalog
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.tree_memory import NightBonus
from models.reasoner.think import NightItem

# Chosen on Beauty's validation users. The whole history speaks, and its order does not count.
EVIDENCE = MemorySettings(recent=50, decay=1.0, num_neighbours=100, scale=3.0, floor=0.003)
NUM_ITEMS = 60  # of a user
FADE = 0.2  # share of the bonus that an event after the night leaves: what came since speaks louder
MAX_BONUS = 15.9375  # nats; a record holds it in one byte


@dataclass(frozen=True, eq=False)
class NightItems:
    """Finds items for users by their histories. Immutable."""

    neighbours: Neighbours  # with the settings of their evidence

    def find(
        self, history: Sequence[int], *, num: int = NUM_ITEMS, exclude: Collection[int] = ()
    ) -> NightBonus:
        """Return the items with the largest bonus, largest first, ties by row.

        Args:
            history: catalog rows, oldest first.
            exclude: rows to leave out, such as the history itself.
        """
        settings = self.neighbours.settings
        newest_first = np.array(history[::-1], dtype=np.int64)
        row_R, evidence_R = self.neighbours.evidence(newest_first)
        is_new_R = ~np.isin(row_R, np.fromiter(exclude, np.int64, len(exclude)))
        row_R, evidence_R = row_R[is_new_R], evidence_R[is_new_R]
        best = np.argsort(-evidence_R, kind="stable")[:num]
        bonus_R = settings.scale * np.log1p(evidence_R[best] / settings.floor)
        return NightBonus(row_R[best], np.minimum(bonus_R, MAX_BONUS))

    def find_sids(self, history: Sequence[int], catalog: Catalog) -> tuple[NightItem, ...]:
        """Return the items of `find`, without the history, by SID; a shared SID comes once."""
        found = self.find(history, exclude=history)
        items: dict[tuple[int, ...], NightItem] = {}
        sids = catalog.sids[found.row_R].tolist()
        for codes, bonus in zip(sids, found.bonus_R.tolist(), strict=True):
            items.setdefault(tuple(codes), NightItem(tuple(codes), bonus))
        return tuple(items.values())
