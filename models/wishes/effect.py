"""The effect of a wish on a catalog: how well each item fits, and the items that are ruled out.

Knows names and catalogs. Knows nothing of scores.
"""

# N = catalog rows, R = rows that fit

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.wishes.cues import WORDS_OF
from models.wishes.names import Name, Names, Rows
from models.wishes.wish import Part, Wish

Fits = NDArray[np.float64]

# How well an item fits a part, from 0 to 1.
_KIND = 0.7  # of the right category or brand, without the other words of the part
_EITHER = 0.6  # of one of several categories that no item has together
_AKIN = 0.8  # of the category that a word stands for, times the share of the word's items there
_MOOD_WORD = 0.8  # with a word of a mood in its title, where a category of the mood fits wholly
_MOST_WORDS = 0.5  # share of the words of a part that an item must have


class Effect(NamedTuple):
    """Items that a wish raises, and items that it rules out."""

    row_R: Rows  # wanted, ascending
    fit_R: Fits  # above 0, up to 1
    unwanted: Rows  # ascending


def effect_of(wish: Wish, names: Names) -> Effect:
    """Return the items that a wish raises and rules out; an item of both kinds is ruled out."""
    fit_N = np.zeros(len(names))
    for part in wish.wanted:
        fit_N = np.maximum(fit_N, part.strength * fit(part, names))
    unwanted_N = np.zeros(len(names), dtype=bool)
    for part in wish.unwanted:
        unwanted_N[refused(part, names)] = True
    fit_N[unwanted_N] = 0
    row_R = np.flatnonzero(fit_N)
    return Effect(row_R, fit_N[row_R], np.flatnonzero(unwanted_N))


def fit(part: Part, names: Names) -> Fits:
    """Return how well each item fits a part: (N,)."""
    base = _base(part, names)
    words = [name for name in part.names if name.kind == "word"]
    if base is not None:
        return base * _refined(_share(words, names), base)
    fit_N = np.zeros(len(names))
    for name in part.names:
        if name.kind == "mood":
            fit_N = np.maximum(fit_N, _mood(name, names))
    if not words:
        return fit_N
    share_N = _share(words, names)
    share_N[share_N < _MOST_WORDS * share_N.max()] = 0
    for name in words:
        if (akin := names.akin(name)) is not None:
            kind, share = akin
            rows = names.rows(kind)
            share_N[rows] = np.maximum(share_N[rows], _AKIN * share)
    return np.maximum(share_N, fit_N)


def refused(part: Part, names: Names) -> Rows:
    """Return the rows that a refusal of this part means: all of its names together."""
    kept: Rows | None = None
    for name in part.names:
        rows = _meant(name, names)
        kept = rows if kept is None else np.intersect1d(kept, rows)
    return kept if kept is not None else np.empty(0, dtype=np.int64)


def _meant(name: Name, names: Names) -> Rows:
    if name.kind == "brand":
        return names.rows(name)
    if name.kind == "category":
        finest = name.label.rpartition(" > ")[2]
        return np.union1d(names.rows(name), names.titled(finest))
    if name.kind == "mood":
        return np.flatnonzero(_mood(name, names))
    akin = names.akin(name)
    rows = names.rows(name)
    return rows if akin is None else np.union1d(rows, names.rows(akin[0]))


def _base(part: Part, names: Names) -> Fits | None:
    """Return the fit by categories and brands alone; None without any."""
    kinds = [names.rows(name) for name in part.names if name.kind in ("category", "brand")]
    if not kinds:
        return None
    num_N = np.zeros(len(names))
    for rows in kinds:
        num_N[rows] += 1
    has_all_N = num_N == len(kinds)
    if has_all_N.any():
        return np.where(has_all_N, 1.0, 0.0)
    return np.where(num_N > 0, _EITHER, 0.0)


def _refined(share_N: Fits, base_N: Fits) -> Fits:
    """Return the factor on a base by the share of the other words; 1 where no item has any."""
    if not (share_N * base_N).any():
        return np.ones(len(base_N))
    return _KIND + (1 - _KIND) * share_N


def _share(words: Sequence[Name], names: Names) -> Fits:
    """Return the share of the words in an item's title, by their weights: (N,)."""
    share_N = np.zeros(len(names))
    for name in words:
        share_N[names.rows(name)] += names.weight(name)
    total = sum(names.weight(name) for name in words)
    return share_N / total if total else share_N


def _mood(name: Name, names: Names) -> Fits:
    fit_N = np.zeros(len(names))
    for wanted in WORDS_OF[name.label]:
        kind = names.find(wanted.replace("&", " ").split())
        if kind is not None:
            fit_N[names.rows(kind)] = 1.0
        else:
            rows = names.titled(wanted)
            fit_N[rows] = np.maximum(fit_N[rows], _MOOD_WORD)
    return fit_N
