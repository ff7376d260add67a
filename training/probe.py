"""Measure a reasoner on validation users: closed thoughts, named interests, prefix recall.

Popular prefixes are the reference for recall.
"""

from collections.abc import Sequence
from typing import NamedTuple

from models.catalog.catalog import Catalog, popular_prefixes
from models.reasoner import prompts, rationales
from models.reasoner.think import Cites, UserHistory, UserThoughts, think_users, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from training.split import UserSplit

_PATHS, _WIDTH, _BATCH = 5, 10, 32


class Probe(NamedTuple):
    """Measurements of a reasoner; shares are in 0..1."""

    closed_paths: float  # share of paths
    named_interests: float  # share of thoughts with all interests among the history's topics
    prefixes: float  # mean number per user
    prefix_recall: float  # share of users with the target's prefix in C_u
    popular_prefix_recall: float  # likewise, with as many popular prefixes as C_u has
    sample: str  # one thought to read


class WishShift(NamedTuple):
    """Share of the prefixes in C_u that belong to the wished topic."""

    unasked: float  # without an instruction
    asked: float  # with the wish as an instruction


def probe(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserSplit],
    *,
    seed: int,
    evidence: Cites | None = None,
) -> Probe:
    """Think about every user's training history and look for the validation target's prefix.

    evidence: for a reasoner that has learnt to read it.
    """
    rows = {item: row for row, item in enumerate(catalog.item_ids)}
    histories = [
        UserHistory(user.user_id, tuple(rows[item] for item in user.train)) for user in users
    ]
    ordered = sorted(histories, key=lambda history: len(history.rows))
    thoughts: list[UserThoughts] = []
    for start in range(0, len(ordered), _BATCH):
        chunk = ordered[start : start + _BATCH]
        seeds = [user_seed(seed, history.user_id) for history in chunk]
        thoughts += think_users(
            reasoner,
            catalog,
            chunk,
            paths=_PATHS,
            width=_WIDTH,
            seeds=seeds,
            evidence=evidence,
        )
    targets = {user.user_id: rows[user.valid] for user in users if user.valid is not None}
    popular = popular_prefixes(catalog, len(catalog))
    depth, num = catalog.space.prefix_depth, max(len(thoughts), 1)
    hits = popular_hits = 0
    for thought in thoughts:
        wanted = tuple(catalog.sids[targets[thought.user_id], :depth].tolist())
        hits += wanted in {prefix.codes for prefix in thought.prefixes}
        popular_hits += wanted in popular[: len(thought.prefixes)]
    texts = [
        (history, text)
        for history, user in zip(ordered, thoughts, strict=True)
        for text in user.texts
    ]
    found = [rationales.ground(catalog, history.rows, text) for history, text in texts]
    return Probe(
        closed_paths=round(len(texts) / (num * _PATHS), 4),
        named_interests=round(
            sum(one.named == one.found > 0 for one in found) / max(len(texts), 1), 4
        ),
        prefixes=round(sum(len(user.prefixes) for user in thoughts) / num, 2),
        prefix_recall=round(hits / num, 4),
        popular_prefix_recall=round(popular_hits / num, 4),
        sample=texts[len(texts) // 2][1] if texts else "",
    )


def wish_shift(
    reasoner: TransformersReasoner, catalog: Catalog, users: Sequence[UserSplit], *, seed: int
) -> WishShift:
    """Measure the effect of a wish, in words, for the topic of the validation target (Fig. 3)."""
    topic_of = prompts.prefix_topics(catalog)
    shares: dict[bool, list[float]] = {False: [], True: []}
    for start in range(0, len(users), _BATCH):
        chunk = users[start : start + _BATCH]
        seeds = [user_seed(seed, user.user_id) for user in chunk]
        targets = [catalog.row(user.valid or "") or 0 for user in chunk]
        for is_asked, found in shares.items():
            asking = [
                UserHistory(
                    user.user_id,
                    tuple(catalog.row(item) or 0 for item in user.train),
                    prompts.wish(catalog, target, is_exact=False) if is_asked else None,
                )
                for user, target in zip(chunk, targets, strict=True)
            ]
            thoughts = think_users(
                reasoner, catalog, asking, paths=_PATHS, width=_WIDTH, seeds=seeds
            )
            for thought, target in zip(thoughts, targets, strict=True):
                named = [topic_of[prefix.codes] for prefix in thought.prefixes]
                hits = named.count(prompts.topic(catalog, target))
                found.append(hits / max(len(named), 1))
    return WishShift(*(round(sum(of) / max(len(of), 1), 4) for of in shares.values()))
