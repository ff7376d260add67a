"""Search for items of one catalog by the beginning of the id, or by words of the title."""

import re

from models.catalog.catalog import Catalog

_WORD = re.compile(r"\w+")


class ItemSearch:
    """Titles of a catalog as words, each behind a space: a word is found by its beginning."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._words = [_words(title or "") for title in catalog.titles]

    def find(self, text: str, limit: int) -> list[int]:
        """Return up to `limit` catalog rows: ids that begin with `text` first, then popular ones.

        Every word of `text` begins a word of the title.
        """
        wanted = [f" {word}" for word in _words(text).split()]
        found = [
            row
            for row, item_id in enumerate(self.catalog.item_ids)
            if item_id.startswith(text)
            or (wanted and all(word in self._words[row] for word in wanted))
        ]
        ids, popularity = self.catalog.item_ids, self.catalog.popularity
        found.sort(key=lambda row: (not ids[row].startswith(text), -int(popularity[row])))
        return found[:limit]


def _words(text: str) -> str:
    return "".join(f" {word}" for word in _WORD.findall(text.casefold()))
