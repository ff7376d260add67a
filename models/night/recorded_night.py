"""Bonus of the items of a user's record, as rows of a catalog.

Knows catalogs and records. Knows nothing of the making of records.
"""

# P = catalog rows of all items, R = items

from collections.abc import Sequence

import numpy as np

from models.catalog.catalog import Catalog
from models.catalog.trie import expand_ranges
from models.online.memory.tree_memory import NightBonus
from models.store.records import RecordedItem


def bonus_of(catalog: Catalog, items: Sequence[RecordedItem]) -> NightBonus:
    """Return the bonus of a record's items, at least one; those outside the catalog are left out.

    All items that share a SID get its bonus.
    """
    sids = np.array([item.codes for item in items])
    leaf_R = catalog.trie.nodes(sids)
    is_known_R = leaf_R >= 0
    bonus_R = np.array([item.bonus for item in items])[is_known_R]
    owner_P, row_P = expand_ranges(catalog.first_row, leaf_R[is_known_R])
    return NightBonus(row_P, bonus_R[owner_P])
