"""Judges of served items, apart from how a wish is understood, and the topics that are drawn.

The first judge reads the category path of an item, or its brand. The second reads the words of its
title alone.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench.wishes.wordings import Mood
from models.catalog.catalog import Catalog

Judge = Callable[[int], bool]  # by catalog row

_LEAST_ITEMS, _MOST_ITEMS = 60, 1500  # of a topic
_FINEST = 2  # levels above a topic at least: "Beauty" and a department


class Judges(NamedTuple):
    """Two judges of one wish."""

    by_category: Judge
    by_title: Judge


def draw_topics(catalog: Catalog, *, held_out: bool) -> list[str]:
    """Return the categories that serve as topics; every second one, by a hash, is held out."""
    counts: Counter[str] = Counter()
    for path in catalog.categories:
        counts.update(set(path[_FINEST:]))
    return sorted(
        name
        for name, num in counts.items()
        if _LEAST_ITEMS <= num <= _MOST_ITEMS and (zlib.crc32(name.encode()) % 2 == 1) == held_out
    )


def topics_of(catalog: Catalog, rows: Iterable[int], topics: Sequence[str]) -> list[str]:
    """Return the topics among these rows, most frequent first, ties by name."""
    known = set(topics)
    counts = Counter(name for row in rows for name in set(catalog.categories[row]) & known)
    return sorted(counts, key=lambda name: (-counts[name], name))


def judge_topic(catalog: Catalog, topic: str) -> Judges:
    words = [word.lower().rstrip("s") for word in re.findall(r"\w+", topic) if word != "and"]

    def has_words(row: int) -> bool:
        title = (catalog.titles[row] or "").lower()
        return all(word in title for word in words)

    return Judges(lambda row: topic in catalog.categories[row], has_words)


def judge_mood(catalog: Catalog, mood: Mood) -> Judges:
    pattern = re.compile(rf"\b(?:{'|'.join(mood.words)})", re.IGNORECASE)
    return Judges(
        lambda row: not mood.categories.isdisjoint(catalog.categories[row]),
        lambda row: pattern.search(catalog.titles[row] or "") is not None,
    )


def judge_brand(catalog: Catalog, row: int) -> Judges:
    """Judge by the brand of an item; by title if it has the brand's name."""
    brand = catalog.brands[row] or "\0"
    return Judges(
        lambda other: catalog.brands[other] == brand,
        lambda other: brand.lower() in (catalog.titles[other] or "").lower(),
    )
