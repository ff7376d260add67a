"""Meanings of codes and prefixes: the topics and the words that their items mostly have."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.reasoner.prompts import topic

_NUM_TOPICS, _NUM_WORDS = 2, 3
_LEAST_SHARE = 0.1  # of the items, for a topic or a word that is named
_WORD = re.compile(r"[^\W\d_]{4,}")
_TELL_NOTHING = {"each", "from", "into", "more", "that", "this", "with", "your"}


def prefix_meanings(catalog: Catalog) -> dict[Prefix, str]:
    """Map each first code and each prefix of the catalog to its meaning in words."""
    words = [title_words(catalog, row) for row in range(len(catalog))]
    common = Counter(word for found in words for word in found)
    rows_of: dict[Prefix, list[int]] = {}
    for row, codes in enumerate(catalog.sids[:, : catalog.space.prefix_depth].tolist()):
        for depth in range(1, len(codes) + 1):
            rows_of.setdefault(tuple(codes[:depth]), []).append(row)
    return {
        prefix: _meaning(catalog, rows, words, common, len(catalog))
        for prefix, rows in rows_of.items()
    }


def title_words(catalog: Catalog, row: int) -> set[str]:
    """Return the words of an item's title, in small letters."""
    return set(_WORD.findall((catalog.titles[row] or "").lower())) - _TELL_NOTHING


def _meaning(
    catalog: Catalog,
    rows: Sequence[int],
    words: Sequence[set[str]],
    common: Mapping[str, int],
    num_items: int,
) -> str:
    topics = Counter(topic(catalog, row) for row in rows)
    named = [
        name
        for name, count in sorted(topics.items(), key=lambda pair: (-pair[1], pair[0]))
        if count >= _LEAST_SHARE * len(rows)
    ][:_NUM_TOPICS]
    telling = _telling_words(rows, words, common, num_items)
    text = f"Mostly {', then '.join(named)}" if named else "Of many topics"
    return f"{text}; words: {', '.join(telling)}" if telling else text


def _telling_words(
    rows: Sequence[int],
    words: Sequence[set[str]],
    common: Mapping[str, int],
    num_items: int,
) -> list[str]:
    """Return the words that the items have more often than all items, most telling first."""
    counts = Counter(word for row in rows for word in words[row])
    least = max(2, _LEAST_SHARE * len(rows))
    excess = {
        word: count * (count / len(rows) - common[word] / num_items)
        for word, count in counts.items()
        if count >= least
    }
    best = sorted(excess, key=lambda word: (-excess[word], word))
    return [word for word in best if excess[word] > 0][:_NUM_WORDS]
