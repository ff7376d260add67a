"""Names that a wish may use for items of a catalog: categories, brands, and words of titles.

Built once for a catalog, in well under a second for ten thousand items. Knows no grammar.
"""

# N = catalog rows, R = rows of a name

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from math import log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.wishes.cues import MOOD_OF
from models.wishes.stems import is_mark, split_words, stem

Kind = Literal["category", "brand", "word", "mood"]
Rows = NDArray[np.int64]
Stems = tuple[str, ...]

LONGEST_NAME = 6  # words
_MOST_SHARE = 0.9  # of all items; a category of more tells nothing
_LEAST_ITEMS = 2  # with a word of titles
# For a word that stands for a category: share of its items there, the same as a multiple of the
# category's share of the catalog, and share of the category that has the word.
_LEAST_AKIN, _LEAST_LIFT, _LEAST_COVER = 0.6, 1.5, 0.1
_OWN_WORD = 0.6  # share of the items with a word that are of the brand of this name
_TYPO = 0.86  # similarity of a word to a known one
_LEAST_TYPO = 5  # letters of a word that may be a typo
_BRAND_TAILS = frozenset(["cosmetic", "beauty", "paris", "professional", "medical", "organic"])
_NEGATING = frozenset(["free", "less", "remover"])  # behind a word in a title
_JOINING = frozenset(["and", "or", "&", "/", ","])


class Name(NamedTuple):
    """One name that a catalog knows."""

    kind: Kind
    label: str  # as the catalog writes it; of a word its stem


class Names:
    """All names of one catalog. Immutable."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._stem_of: dict[str, str] = {}
        self._rows: dict[Name, Rows] = {}
        self._names: dict[Stems, Name] = {}
        self._said: dict[str, str] = {}  # shortest word of titles, by stem
        self._index_words()
        self._index_brands()
        self._index_categories()

    def __len__(self) -> int:
        return len(self.catalog)

    def find(self, words: Sequence[str]) -> Name | None:
        """Return the category or brand that these words name; None if they name none."""
        name = self._names.get(tuple(self._stem(word) for word in words))
        if name is None and len(words) == 2:
            name = self._names.get((self._stem("".join(words)),))
        return name

    def word(self, word: str) -> Name | None:
        """Return the mood or the word of titles, also for a small slip of the pen."""
        if word in MOOD_OF:
            return Name("mood", MOOD_OF[word])
        return self.plain_word(word) or self._mended(word)

    def plain_word(self, word: str) -> Name | None:
        """Return the word of titles; None if no title has it."""
        name = Name("word", self._stem(word))
        return name if name in self._rows else None

    def rows(self, name: Name) -> Rows:
        """Return the rows of a category, a brand or a word, ascending; none for other names."""
        return self._rows.get(name, np.empty(0, dtype=np.int64))

    def titled(self, label: str) -> Rows:
        """Return the rows whose titles have all words of a label."""
        found: Rows | None = None
        for each in {self._stem(word) for word in _words(label)}:
            rows = self.rows(Name("word", each))
            found = rows if found is None else np.intersect1d(found, rows, assume_unique=True)
        return found if found is not None else np.empty(0, dtype=np.int64)

    def weight(self, name: Name) -> float:
        """Return how much a word tells: log(N / items with it)."""
        return log(len(self) / max(len(self.rows(name)), 1))

    def akin(self, name: Name) -> tuple[Name, float] | None:
        """Return the category that most items with a word share, and their share; None: none.

        The category of which the word tells most, and only one that it picks out of the catalog.
        """
        rows = self.rows(name)
        if name.kind != "word":
            return None
        counts = Counter(label for row in rows.tolist() for label in self._labels(row))
        found = []
        for label, num in counts.items():
            size, share = len(self.rows(Name("category", label))), num / len(rows)
            lift = share * len(self) / max(size, 1)
            is_told = share >= _LEAST_AKIN and lift >= _LEAST_LIFT and num >= _LEAST_COVER * size
            if size and is_told:
                found.append((share * log(lift), label, share))
        if not found:
            return None
        _, label, share = max(found)
        return Name("category", label), share

    def spoken(self, name: Name) -> str:
        """Return a name as an answer says it."""
        return self._said.get(name.label, name.label) if name.kind == "word" else name.label

    def brand_of(self, row: int) -> Name | None:
        brand = self.catalog.brands[row]
        return Name("brand", brand) if brand else None

    def category_of(self, row: int) -> Name | None:
        """Return the finest category of an item."""
        labels = [Name("category", label) for label in self._labels(row)]
        known = [name for name in labels if name in self._rows]
        return known[-1] if known else None

    def _labels(self, row: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.catalog.categories[row]))

    def _stem(self, word: str) -> str:
        if word not in self._stem_of:
            self._stem_of[word] = stem(word)
        return self._stem_of[word]

    def _mended(self, word: str) -> Name | None:
        """Return the known word that an unknown one nearly is."""
        if len(word) < _LEAST_TYPO or not word.isalpha():
            return None
        near = get_close_matches(self._stem(word), self._common, n=1, cutoff=_TYPO)
        return Name("word", near[0]) if near else None

    @cached_property
    def _common(self) -> list[str]:
        words = (name for name, rows in self._rows.items() if name.kind == "word" and len(rows) > 9)
        return sorted(name.label for name in words)

    def _index_words(self) -> None:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for row, title in enumerate(self.catalog.titles):
            words = [word for word in split_words(title or "") if not is_mark(word)]
            for word, after in pairwise([*words, ""]):
                label = self._stem(word)
                self._said[label] = min(self._said.get(label, word), word, key=len)
                if after not in _NEGATING and found[label][-1:] != [row]:
                    found[label].append(row)
        for label, rows in found.items():
            if len(rows) >= _LEAST_ITEMS:
                self._rows[Name("word", label)] = np.array(rows, dtype=np.int64)

    def _index_brands(self) -> None:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for row, brand in enumerate(self.catalog.brands):
            if brand:
                found[brand].append(row)
        for label, rows in found.items():
            name = Name("brand", label)
            self._rows[name] = np.array(rows, dtype=np.int64)
            whole = self._stems(label)
            for alias in _brand_aliases(whole):
                if self._is_own(alias, name):
                    self._names.setdefault(alias, name)

    def _is_own(self, alias: Stems, name: Name) -> bool:
        """Tell if a brand may be called so: by several words, or by one that means it in titles."""
        if len(alias) > 1:
            return True
        titled = self.rows(Name("word", alias[0]))
        shared = len(np.intersect1d(titled, self._rows[name], assume_unique=True))
        return len(titled) == 0 or shared >= _OWN_WORD * len(titled)

    def _index_categories(self) -> None:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for row in range(len(self)):
            for label in self._labels(row):
                found[label].append(row)
        labels = [each for each, rows in found.items() if len(rows) <= _MOST_SHARE * len(self)]
        for label in sorted(labels, key=lambda label: (len(found[label]), label)):
            self._rows[Name("category", label)] = np.array(found[label], dtype=np.int64)
        parts = {alias: label for label in labels for alias in self._part_aliases(label)}
        self._names.update({alias: Name("category", label) for alias, label in parts.items()})
        self._index_pairs()
        self._names.update({self._stems(label): Name("category", label) for label in labels})
        for alias, name in list(self._names.items()):
            if len(alias) == 2:
                self._names.setdefault(("".join(alias),), name)

    def _index_pairs(self) -> None:
        """Index a category below another one by both names: "Makeup > Nails"."""
        found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for row in range(len(self)):
            labels = self._labels(row)
            for pair in pairwise(labels):
                found[pair].append(row)
        for (above, below), rows in found.items():
            if Name("category", above) in self._rows and Name("category", below) in self._rows:
                name = Name("category", f"{above} > {below}")
                self._rows[name] = np.array(rows, dtype=np.int64)
                self._names[self._stems(above) + self._stems(below)] = name

    def _part_aliases(self, label: str) -> Iterator[Stems]:
        """Yield names of a category of two: "Creams & Moisturizers" is also "creams"."""
        parts: list[list[str]] = [[]]
        for word in _words(label, _JOINING):
            if word in _JOINING:
                parts.append([])
            else:
                parts[-1].append(word)
        parts = [part for part in parts if part]
        for part in parts if len(parts) > 1 else ():
            if part[-1].endswith("s"):
                yield tuple(self._stem(word) for word in part)
            elif len(parts[-1]) > 1:
                yield tuple(self._stem(word) for word in (*part, parts[-1][-1]))

    def _stems(self, label: str) -> Stems:
        return tuple(self._stem(word) for word in _words(label))


def _words(label: str, kept: Iterable[str] = ()) -> list[str]:
    """Return the words of a label; marks and joining words only if they are to be kept."""
    words = split_words(label)
    return [word for word in words if word in kept or not (is_mark(word) or word in _JOINING)]


def _brand_aliases(whole: Stems) -> Iterator[Stems]:
    if whole:
        yield whole
    if len(whole) > 1 and whole[-1] in _BRAND_TAILS:
        yield whole[:-1]
