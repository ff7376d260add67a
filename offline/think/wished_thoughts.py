"""Thoughts under a wish: the reasoner gets the wish in words that it knows, and has to obey it.

A small reasoner has learnt one sentence, "I am looking for TOPIC", and takes a refusal for a wish.
So a wish that is understood is put into that sentence, a refusal is kept from it, and its
thoughts are held against the wish. A wish that is not understood is read as it was written.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.reasoner.prompts import topic, wish_for
from models.reasoner.rationales import next_topic
from models.reasoner.think import PathPrefix, UserHistory, UserThoughts
from models.store.wish_turns import WishTurn
from models.wishes.dialogue import understand
from models.wishes.effect import Effect, effect_of
from models.wishes.names import Names

# N = catalog rows

Mask = NDArray[np.bool_]


class WishedHistory(NamedTuple):
    """A user's history, with the instruction for the reasoner, and the user's wish."""

    history: UserHistory
    effect: Effect | None = None  # None: no wish, or one that is not understood


class KnownWishes:
    """Understands wishes over the newest catalog; its names are indexed at the first wish."""

    def __init__(self) -> None:
        self._names: Names | None = None

    def read(
        self,
        catalog: Catalog,
        history: UserHistory,
        text: str | None,
        turns: Sequence[WishTurn] = (),
    ) -> WishedHistory:
        """Return the history with an instruction that the reasoner knows.

        Args:
            text: the user's last instruction; None without one.
            turns: of the wish in the store; without any the text is the whole wish.
        """
        if not text:
            return WishedHistory(history)
        if self._names is None or self._names.catalog is not catalog:
            self._names = Names(catalog)
        wish = understand(turns or [WishTurn(text, 0)], self._names)
        if wish.is_empty:
            return WishedHistory(replace(history, instruction=text))
        effect = effect_of(wish, self._names)
        asked = _main_topic(catalog, effect)
        instruction = wish_for(asked) if asked is not None else None
        return WishedHistory(replace(history, instruction=instruction), effect)


def _main_topic(catalog: Catalog, effect: Effect) -> str | None:
    """Return the topic that most of the wanted items have, by how well they fit."""
    weights: dict[str, float] = {}
    for row, fit in zip(effect.row_R.tolist(), effect.fit_R.tolist(), strict=True):
        name = topic(catalog, row)
        weights[name] = weights.get(name, 0.0) + fit
    return max(weights, key=lambda name: weights[name]) if weights else None


def obey(
    catalog: Catalog, wished: Sequence[WishedHistory], thoughts: Sequence[UserThoughts]
) -> list[UserThoughts]:
    """Drop the paths and the prefixes that a user's wish rules out.

    If it rules out all of them, they stay: the online tier leaves out the items all the same.
    """
    effects = {each.history.user_id: each.effect for each in wished}
    return [_obey(catalog, effects.get(each.user_id), each) for each in thoughts]


def _obey(catalog: Catalog, effect: Effect | None, thoughts: UserThoughts) -> UserThoughts:
    if effect is None or not len(effect.unwanted):
        return thoughts
    is_out_N = np.zeros(len(catalog), dtype=bool)
    is_out_N[effect.unwanted] = True
    refused = _refused_topics(catalog, is_out_N)
    paths = [at for at, text in enumerate(thoughts.texts) if next_topic(text) not in refused]
    number = {path: at for at, path in enumerate(paths)}
    kept = tuple(
        prefix._replace(path=number[prefix.path])
        for prefix in thoughts.prefixes
        if prefix.path in number and not _is_out(catalog, prefix, is_out_N)
    )
    texts = tuple(thoughts.texts[at] for at in paths)
    return replace(thoughts, texts=texts, prefixes=kept) if kept else thoughts


def _refused_topics(catalog: Catalog, is_out_N: Mask) -> set[str]:
    """Return the topics of which most items are ruled out."""
    counts: dict[str, list[int]] = {}
    for row, is_out in enumerate(is_out_N.tolist()):
        counts.setdefault(topic(catalog, row), [0, 0])[is_out] += 1
    return {name for name, (num_in, num_out) in counts.items() if num_out > num_in}


def _is_out(catalog: Catalog, prefix: PathPrefix, is_out_N: Mask) -> bool:
    rows = catalog.rows_below(prefix.codes)
    return bool(is_out_N[rows.start : rows.stop].all())
