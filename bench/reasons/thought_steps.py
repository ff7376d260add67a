"""Steps from a history to a thought to an item (Fig. 5 of the paper), each counted on its own.

Beside every share stands the same share with the thoughts or the history of another user.
"""

# E = events: named topics, prefixes or items of all users; U = users

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.quality.ranking.prefix_map import another_user
from bench.quality.ranking.rank_metrics import bootstrap_clusters
from bench.reasons.explained import Explained
from models.catalog.catalog import Catalog
from models.reasoner.prompts import prefix_topics, topic
from models.reasoner.rationales import named_interests, next_topic


class Events(NamedTuple):
    """Claims of thoughts, and if they are true."""

    user_E: list[int]
    own_E: list[float]  # 1: true of the user
    another_E: list[float]  # 1: true of another user

    @classmethod
    def none(cls) -> "Events":
        return cls([], [], [])

    def add(self, user: int, own: bool, another: bool) -> None:
        self.user_E.append(user)
        self.own_E.append(float(own))
        self.another_E.append(float(another))


def step_rows(found: Sequence[Explained], catalog: Catalog, *, seed: int) -> list[dict[str, Any]]:
    """Return one row per step, and one per ground of the served items."""
    others = another_user(len(found), seed=seed).tolist()
    named, prefixed, covered, served, strict = (Events.none() for _ in range(5))
    topic_of = prefix_topics(catalog)
    for user, (own, other) in enumerate(zip(found, (found[at] for at in others), strict=True)):
        topics, their_topics = _topics(catalog, own), _topics(catalog, other)
        for name in {name for text in own.texts for name in named_interests(text)}:
            named.add(user, name in topics, name in their_topics)
        for prefix in own.prefixes:
            if prefix.path is not None:  # None: found by the night's items, by no thought
                meant = topic_of[prefix.codes]
                prefixed.add(user, *(_next(each, prefix.path) == meant for each in (own, other)))
        for item in own.items:
            served.add(user, item["path"] is not None, False)
            if item["path"] is not None:
                meant = topic(catalog, _row(catalog, item))
                covered.add(user, *(_next(each, item["path"]) == meant for each in (own, other)))
            if (thought := item["reason"]["thought"]) is not None:
                path = " > ".join(catalog.categories[_row(catalog, item)])
                strict.add(user, thought["topic"] in path, False)
    rows = [
        _row_of("named_topic_is_in_history", named, seed=seed),
        _row_of("prefix_is_of_next_topic", prefixed, seed=seed),
        _row_of("served_item_is_below_a_prefix", served, seed=seed, has_another=False),
        _row_of("covered_item_is_of_next_topic", covered, seed=seed),
        _row_of("thought_shown_is_of_the_items_category", strict, seed=seed, has_another=False),
    ]
    return [row for row in rows if row] + _ground_rows(found)


def _row_of(
    name: str, events: Events, *, seed: int, has_another: bool = True
) -> dict[str, Any] | None:
    """Return a row with the share of true claims; None without a claim."""
    if not events.user_E:
        return None
    columns = {"share": np.array(events.own_E)}
    if has_another:
        columns["another"] = np.array(events.another_E)
    row: dict[str, Any] = {"name": name, "claims": len(events.user_E)}
    for column, interval in bootstrap_clusters(columns, np.array(events.user_E), seed=seed).items():
        row |= interval.columns(column)
    return row


def _ground_rows(found: Sequence[Explained]) -> list[dict[str, Any]]:
    """Return the share of the served items by the largest part of their score."""
    items = [item for own in found for item in own.items]
    grounds = Counter(item["reason"]["ground"] for item in items)
    rows = [
        {"name": f"ground_{ground}", "claims": count, "share": count / len(items)}
        for ground, count in grounds.most_common()
    ]
    num_thoughts = sum(item["reason"]["thought"] is not None for item in items)
    shown = {"name": "thought_is_shown", "claims": num_thoughts, "share": num_thoughts / len(items)}
    return [*rows, shown]


def _topics(catalog: Catalog, own: Explained) -> set[str]:
    return {topic(catalog, row) for row in own.rows}


def _next(own: Explained, path: int) -> str | None:
    return next_topic(own.texts[path].strip()) if path < len(own.texts) else None


def _row(catalog: Catalog, item: dict[str, Any]) -> int:
    (row,) = catalog.rows([item["item_id"]])
    return row
