"""The item that an answer gives as a reason, beside other items that it could have given.

The other ones are too simple to lose: the newest item of the history, a random one, and a random
item of the catalog that is as popular as the reason.
"""

# E = served items, N = catalog rows, V = words

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.rank_metrics import bootstrap_clusters
from bench.reasons.explained import Explained
from models.catalog.catalog import Catalog
from models.night.item_words import item_words
from models.reasoner.prompts import topic

BECAUSE, NEWEST, RANDOM, POPULAR = "because", "newest", "random", "as_popular"
CHOICES = (BECAUSE, NEWEST, RANDOM)  # of the history
_NEAR = 20  # places in the order of popularity


def choose(own: Explained, because: int, rng: np.random.Generator) -> dict[str, int]:
    """Return the catalog row of each choice of the history."""
    distinct = sorted(set(own.rows))
    return {BECAUSE: because, NEWEST: own.rows[-1], RANDOM: distinct[rng.integers(len(distinct))]}


def because_rows(
    found: Sequence[Explained],
    catalog: Catalog,
    learnt: Sequence[Sequence[int]],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return one row per choice: what it has in common with the item that is served.

    learnt: histories as catalog rows, from which items bought by one user are counted.
    """
    rng = np.random.default_rng(seed)
    by_popularity = np.argsort(-catalog.popularity, kind="stable")
    place_N = np.empty(len(catalog), dtype=np.int64)
    place_N[by_popularity] = np.arange(len(catalog))
    user_E: list[int] = []
    served_E: list[int] = []
    chosen: defaultdict[str, list[int]] = defaultdict(list)
    for user, own in enumerate(found):
        for item in own.items:
            if not item["because"]:
                continue
            served, because = catalog.rows([item["item_id"], item["because"][0]])
            near = np.clip(place_N[because] + rng.integers(-_NEAR, _NEAR + 1), 0, len(catalog) - 1)
            options = choose(own, because, rng) | {POPULAR: int(by_popularity[near])}
            user_E.append(user)
            served_E.append(served)
            for name, row in options.items():
                chosen[name].append(row)
    pairs = _bought_together(learnt, len(catalog))
    return [
        _row_of(name, rows, served_E, np.array(user_E), catalog, pairs, seed=seed)
        for name, rows in chosen.items()
    ]


def _row_of(
    name: str,
    chosen_E: Sequence[int],
    served_E: Sequence[int],
    user_E: NDArray[np.int64],
    catalog: Catalog,
    pairs: set[int],
    *,
    seed: int,
) -> dict[str, Any]:
    words_NV = item_words(catalog)
    topics = [topic(catalog, row) for row in range(len(catalog))]
    both = list(zip(chosen_E, served_E, strict=True))
    alike_E = np.asarray(words_NV[chosen_E].multiply(words_NV[served_E]).sum(axis=1)).ravel()
    columns = {
        "same_topic": np.array([float(topics[one] == topics[two]) for one, two in both]),
        "words": alike_E,
        "bought_together": np.array(
            [float(one * len(catalog) + two in pairs) for one, two in both]
        ),
    }
    row: dict[str, Any] = {"name": f"pair_{name}", "claims": len(both)}
    for column, interval in bootstrap_clusters(columns, user_E, seed=seed).items():
        row |= interval.columns(column)
    return row


def _bought_together(learnt: Sequence[Sequence[int]], num_items: int) -> set[int]:
    """Return all pairs of items of one history, both ways, as one number each."""
    return {
        one * num_items + two
        for history in learnt
        for one in set(history)
        for two in set(history)
        if one != two
    }
