"""Texts are part of the memory only where they help to rank validation targets."""

from dataclasses import replace

import numpy as np
import pytest

from models.catalog.catalog import Catalog
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.similar_items import SimilarItems
from tests.fakes.toy import toy_catalog
from training.memory_choice import choose_memory, keep_choice, rank_alone
from training.split import UserSplit

SETTINGS = MemorySettings(num_similar=12)


@pytest.fixture
def catalog() -> Catalog:
    return toy_catalog()


def users_of(catalog: Catalog) -> list[UserSplit]:
    """Everybody has two items, and then the one after them."""
    ids = catalog.item_ids
    return [UserSplit(f"user-{at}", (ids[at], ids[at + 1]), ids[at + 2]) for at in range(40)]


def memory_of(catalog: Catalog, similar: SimilarItems) -> Memory:
    """Count histories in which half of the items are followed by the next one."""
    histories = [[at, at + 1, at + 2] for at in range(0, 40, 2)]
    return Memory.counted(histories, similar, SETTINGS)


def similar_to(offset: int, num_items: int) -> SimilarItems:
    """Let each item have the texts of those that far behind it, all equal."""
    rows = np.arange(num_items)[:, None] + offset + np.arange(SETTINGS.num_similar)
    return SimilarItems((rows % num_items).astype(np.int32), np.ones(rows.shape, dtype=np.float32))


def test_texts_that_tell_what_comes_next_stay(catalog: Catalog) -> None:
    memory = memory_of(catalog, similar_to(1, len(catalog)))
    assert choose_memory(memory, catalog, users_of(catalog)) == SETTINGS


def test_texts_that_rank_below_counts_go(catalog: Catalog) -> None:
    memory = memory_of(catalog, similar_to(90, len(catalog)))
    chosen = choose_memory(memory, catalog, users_of(catalog))
    assert chosen == replace(SETTINGS, similar_weight=0.0)
    assert keep_choice(MemorySettings(), chosen) == replace(MemorySettings(), similar_weight=0.0)
    assert keep_choice(SETTINGS, MemorySettings()) == SETTINGS
    assert keep_choice(SETTINGS, None) == SETTINGS


def test_the_memory_ranks_without_items_of_the_history(catalog: Catalog) -> None:
    """The item of the history that has most evidence does not count as one before the target."""
    ids = catalog.item_ids
    histories = [[0, 1]] * 3 + [[1, 0]] * 3 + [[1, 2]]
    memory = Memory.counted(histories, SimilarItems.none(len(catalog)), SETTINGS)
    found = rank_alone(memory.neighbours(), catalog, [UserSplit("user", (ids[0], ids[1]), ids[2])])
    assert found == (1.0, 1.0)
