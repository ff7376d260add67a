"""Checks of a rationale before the reasoner learns from it, in a fixed order.

Knows text, SIDs and categories; knows nothing of models or users.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property

from models.catalog.catalog import Catalog
from models.catalog.sid import ITEM_BEGIN, ITEM_END, Sid
from models.errors import InvalidSid
from models.reasoner import prompts

_COPIED_WORDS = 4
_MARKERS = set(prompts.SPECIAL_TOKENS) - {ITEM_BEGIN, ITEM_END}


class Fault(StrEnum):
    """Reason to reject a rationale: the first check that fails, in this order."""

    UNCLOSED = "never closes"
    MARKER = "writes a marker"
    FOREIGN_ITEM = "cites an item outside the input"
    NO_CATEGORY = "names no category of the input"
    FOREIGN_CATEGORY = "names a category outside the input"
    COPIED_TITLE = "copies the target's title"


class RationaleChecks:
    """Checks a rationale against the items of its question.

    Category names match as whole words, with the capitals of the data: "Face" is a category, "face"
    a word. If the catalog has no categories, the two checks of categories are skipped.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def fault(self, text: str | None, relevant: Sequence[int], target: int) -> Fault | None:
        """Return the first check that fails; None for a sound rationale.

        text: None if the rationale never closed. relevant, target: catalog rows.
        """
        if text is None:
            return Fault.UNCLOSED
        if any(marker in text for marker in _MARKERS):
            return Fault.MARKER
        rows = [*relevant, target]
        if not self._cites_only(text, rows):
            return Fault.FOREIGN_ITEM
        if self._names:
            named = set(self._pattern.findall(text))
            if not named:
                return Fault.NO_CATEGORY
            if not named <= {name for row in rows for name in self._below_root(row)}:
                return Fault.FOREIGN_CATEGORY
        return Fault.COPIED_TITLE if self._copies_title(text, target) else None

    def _cites_only(self, text: str, rows: Sequence[int]) -> bool:
        """Return True if every SID in the text is one of `rows`, without loose itemic tokens."""
        known: set[Sid] = {tuple(sid) for sid in self._catalog.sids[list(rows)].tolist()}
        try:
            cited = self._catalog.space.parse(text)
        except InvalidSid:
            return False
        num_tokens = len(re.findall(r"<item_[a-h]_\d+>", text))
        return set(cited) <= known and num_tokens == len(cited) * self._catalog.space.levels

    def _copies_title(self, text: str, target: int) -> bool:
        """Return True if the text has four consecutive words of the title, or the whole title."""
        title = prompts.short_title(self._catalog, target)
        words = _words(title or "")
        if not words:
            return False
        size = min(_COPIED_WORDS, len(words))
        return not _runs(words, size).isdisjoint(_runs(_words(text), size))

    def _below_root(self, row: int) -> tuple[str, ...]:
        """Return an item's categories without the first, which all items of a data set share."""
        path = self._catalog.categories[row]
        return path[1:] or path

    @cached_property
    def _names(self) -> list[str]:
        """All category names, longest first, so that "Hair Care" is not read as "Hair"."""
        names = {name for row in range(len(self._catalog)) for name in self._below_root(row)}
        return sorted(names, key=lambda name: (-len(name), name))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, self._names))})(?!\w)")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
