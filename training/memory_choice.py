"""Chooses whether items with similar texts are neighbours, by validation users.

Texts help where they tell items apart. Where few items have a title, many texts are equal, and the
memory ranks better by counts alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.catalog.catalog import Catalog
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from training.scores import Scores, scores_of
from training.split import UserSplit

_TOP = 10


def choose_memory(memory: Memory, catalog: Catalog, users: Sequence[UserSplit]) -> MemorySettings:
    """Return the settings of a memory, without texts if it ranks better without them.

    Args:
        memory: of the training histories.
        users: with validation targets; the memory alone ranks them, by NDCG@10.
    """
    without = replace(memory.settings, similar_weight=0.0)
    counted = Memory(memory.counts, memory.similar, without)
    by_texts = rank_alone(memory.neighbours(), catalog, users)
    by_counts = rank_alone(counted.neighbours(), catalog, users)
    return without if by_counts.ndcg > by_texts.ndcg else memory.settings


def keep_choice(settings: MemorySettings, chosen: MemorySettings | None) -> MemorySettings:
    """Return settings without texts if those that were chosen before are without them."""
    if chosen is not None and not chosen.similar_weight:
        return replace(settings, similar_weight=0.0)
    return settings


def rank_alone(neighbours: Neighbours, catalog: Catalog, users: Sequence[UserSplit]) -> Scores:
    """Rank validation targets by evidence alone, without items of the history."""
    recent, ranks = neighbours.settings.recent, []
    for user in users:
        history, target = catalog.rows(user.train), catalog.row(user.valid or "")
        row_R, evidence_R = neighbours.evidence(np.array(history[: -recent - 1 : -1], dtype=int))
        is_other_R = ~np.isin(row_R, list(set(history) - {target}))
        own = evidence_R[row_R == target]
        if len(own):
            rank = int((evidence_R[is_other_R] > own[0]).sum())
            ranks += [rank] if rank < _TOP else []
    return scores_of(ranks, num_users=len(users))
