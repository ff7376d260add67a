"""Wishes of users over one catalog, understood once and kept for the requests that follow.

Knows nothing of users, scores or HTTP.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.catalog.candidates import Candidates, from_nodes
from models.catalog.catalog import Catalog
from models.online.memory.tree_memory import NightBonus
from models.store.wish_turns import WishTurn
from models.wishes.dialogue import understand
from models.wishes.effect import effect_of
from models.wishes.names import Names
from models.wishes.sentence import answer, spoken

KEPT_BYTES = 64 << 20  # for wishes that are kept
_ITEM_BYTES = 30  # that a wish takes for each item of the catalog, at most
_FITS = 0.5  # an item that fits as well is one that was asked for
_MAX_POPULAR = 1000


class HeldWish:
    """One wish, and its effect on one catalog. Immutable."""

    def __init__(self, turns: Sequence[WishTurn], names: Names) -> None:
        self.turns = tuple(turns)
        self.wish = understand(turns, names)
        self._names = names
        self._catalog = names.catalog
        self.effect = effect_of(self.wish, names)

    @property
    def raises(self) -> bool:
        """Return True if it raises items, False if it only rules some out."""
        return len(self.effect.row_R) > 0

    @property
    def rules_out(self) -> bool:
        return len(self.effect.unwanted) > 0

    @cached_property
    def wanted(self) -> list[str]:
        """Names of the wanted parts, as the catalog writes them."""
        return [spoken(part, self._names) for part in self.wish.wanted]

    @cached_property
    def unwanted(self) -> list[str]:
        return [spoken(part, self._names) for part in self.wish.unwanted]

    def sentence(self, *, minutes: int) -> str:
        """Return the answer to the last turn."""
        return answer(self.wish, self._names, minutes=minutes)

    def bonus(self, strength: float) -> NightBonus | None:
        """Return the bonus of the items; strength: nats of an item that fits wholly."""
        if not self.raises or strength <= 0:
            return None
        return NightBonus(self.effect.row_R, strength * self.effect.fit_R)

    def bonus_of(self, row: int, strength: float) -> float:
        """Return the bonus of one item."""
        at = int(np.searchsorted(self.effect.row_R, row))
        is_there = at < len(self.effect.row_R) and self.effect.row_R[at] == row
        return strength * float(self.effect.fit_R[at]) if is_there else 0.0

    @cached_property
    def fitting(self) -> NDArray[np.int64]:
        """Rows that were asked for, most popular first."""
        rows = self.effect.row_R[self.effect.fit_R >= _FITS]
        order: NDArray[np.int64] = rows[np.argsort(-self._catalog.popularity[rows], kind="stable")]
        return order

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """Mask over the catalog's rows: all that are not ruled out."""
        mask_N = np.ones(len(self._catalog), dtype=bool)
        mask_N[self.effect.unwanted] = False
        return mask_N

    @cached_property
    def only(self) -> NDArray[np.bool_]:
        """Mask of the rows that were asked for, for a model that takes no bonus."""
        mask_N = np.zeros(len(self._catalog), dtype=bool)
        mask_N[self.fitting] = True
        return mask_N

    @cached_property
    def candidates(self) -> Candidates:
        """All prefixes that hold an item that was asked for."""
        trie, depth = self._catalog.trie, self._catalog.space.prefix_depth
        return from_nodes(trie, trie.nodes(self._catalog.sids[self.fitting, :depth]))

    def arrange(self, popular: Sequence[int], allowed_N: NDArray[np.bool_] | None) -> list[int]:
        """Put wanted rows before other popular ones, and leave out unwanted ones.

        allowed_N: mask of a filter beside the wish; None without one.
        """
        first = self.fitting if allowed_N is None else self.fitting[allowed_N[self.fitting]]
        rows = dict.fromkeys([*first[:_MAX_POPULAR].tolist(), *popular])
        return [row for row in rows if self.allowed[row]]


class Wishes:
    """Wishes over one catalog; the most recently used ones are kept, in about KEPT_BYTES."""

    def __init__(self, catalog: Catalog, kept_bytes: int = KEPT_BYTES) -> None:
        self.names = Names(catalog)
        self._max_kept = max(kept_bytes // (_ITEM_BYTES * max(len(catalog), 1)), 1)
        self._kept: OrderedDict[tuple[WishTurn, ...], HeldWish] = OrderedDict()

    def get(self, turns: Sequence[WishTurn]) -> HeldWish:
        """Return the wish of these turns."""
        key = tuple(turns)
        if key not in self._kept:
            self._kept[key] = HeldWish(key, self.names)
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
