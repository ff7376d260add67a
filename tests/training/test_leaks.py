"""No training text tells its user's validation or test target, and nothing is out of the trie."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from models.catalog.catalog import Catalog, build_catalog
from models.catalog.dataset import Dataset, load_dataset
from models.catalog.sid import SidSpace
from models.reasoner import prompts
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import code_ids
from training.batching import Encoder, Row
from training.bootstrap import questions
from training.nano import build_tokenizer
from training.rationale_writers import Thinker
from training.reasoner_recipes import BootstrapRecipe, ThoughtRecipe
from training.split import split_dataset, training_histories
from training.tasks import Tasks

DATA = Path("data/beauty")
EVERY = 8  # users of Beauty, one of so many
SPACE = SidSpace((64, 64, 256), codebook="every item its own")


class World(NamedTuple):
    """All items and some users of Beauty, and their tasks."""

    catalog: Catalog
    histories: list[list[int]]
    targets: NDArray[np.int64]  # (users, 2): catalog rows that no text of a user may tell
    tasks: Tasks
    encoder: Encoder
    tokens: "Tokens"


class Tokens(NamedTuple):
    """Tables that turn tokens into catalog rows."""

    code_of: NDArray[np.int64]  # (3, V): code of a vocabulary id at a level, or -1
    row_of: NDArray[np.int64]  # catalog row by packed SID

    def rows_in(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of whole SIDs in a string of tokens, and their catalog rows."""
        at = [self.code_of[level, ids[level : len(ids) - 2 + level]] for level in range(3)]
        places = np.flatnonzero((at[0] >= 0) & (at[1] >= 0) & (at[2] >= 0))
        packed = SPACE.pack(np.stack(at, axis=1)[places])
        return places, self.row_of[packed]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(DATA)


@pytest.fixture(scope="module")
def world(dataset: Dataset) -> World:
    """Items of Beauty under SIDs of their own, so that a SID found is that one item."""
    spread = np.random.default_rng(0).permutation(len(dataset.items)) * 80
    sids = dict(zip(dataset.items, SPACE.unpack(spread, 3).tolist(), strict=True))
    split = split_dataset(dataset)
    catalog = build_catalog(SPACE, sids, dataset.items, split.popularity)
    histories = training_histories(catalog, split)
    row_of_item = {item: row for row, item in enumerate(catalog.item_ids)}
    whole = [[row_of_item[event.item_id] for event in h] for h in dataset.histories.values()]
    assert [rows[:-2] for rows in whole] == histories  # every user of Beauty has five or more
    whole, histories = whole[::EVERY], histories[::EVERY]
    targets = np.array([rows[-2:] for rows in whole])
    texts = [prompts.caption(catalog, row) for row in range(0, len(catalog), 20)]
    tokenizer = build_tokenizer(texts, SPACE, 512)
    code_of = np.full((3, len(tokenizer)), -1)
    for level, ids in enumerate(code_ids(tokenizer, SPACE)):
        code_of[level, ids] = np.arange(len(ids))
    row_of = np.full(int(np.prod(SPACE.sizes)), -1)
    row_of[SPACE.pack(catalog.sids)] = np.arange(len(catalog))
    tasks = Tasks(catalog, histories, tokenizer, seed=0)
    tokens = Tokens(code_of, row_of)
    return World(catalog, histories, targets, tasks, Encoder(tokenizer), tokens)


def leaks(world: World, rows: Iterable[Row]) -> tuple[set[int], int]:
    """Histories with one of their own targets in their texts, and the number of SIDs found."""
    told = [row for row in rows if row.history is not None]
    ids = np.concatenate([np.array([*row.ids, 0, 0]) for row in told])
    owner = np.repeat([row.history for row in told], [len(row.ids) + 2 for row in told])
    places, found = world.tokens.rows_in(ids)
    assert (found >= 0).all()
    owners = owner[places]
    is_leak = (world.targets[owners] == found[:, None]).any(axis=1)
    return set(owners[is_leak].tolist()), len(found)


TEMPLATES = [
    ThoughtRecipe("category"),
    ThoughtRecipe("three-stage"),
    ThoughtRecipe("category", wish_share=1.0),
    ThoughtRecipe("category", silent_share=1.0),
]


@pytest.mark.parametrize("task", ["sequences", "interleaved", "personas"])
def test_no_alignment_text_tells_its_users_targets(world: World, task: str) -> None:
    found, num = leaks(world, getattr(world.tasks, task)())
    assert found == set()
    assert num >= sum(min(len(rows), 50) for rows in world.histories)


def test_no_preference_row_tells_its_users_targets(world: World) -> None:
    """Every position of every history, some 16,000 rows."""
    found, num = leaks(world, world.tasks.preferences())
    assert found == set()
    assert num == sum(min(cut, 50) + 1 for rows in world.histories for cut in range(1, len(rows)))


@pytest.mark.parametrize("recipe", TEMPLATES, ids=["category", "three-stage", "wish", "silent"])
def test_no_thought_tells_its_users_targets(world: World, recipe: ThoughtRecipe) -> None:
    found, num = leaks(world, world.tasks.rationales(Thinker(recipe)))
    assert found == set()
    assert num >= 2 * sum(len(rows) > 1 for rows in world.histories)


def test_no_question_and_no_rollout_tells_its_users_targets(world: World) -> None:
    """Checks allow a bootstrapped rationale to cite only its question.
    A rollout's prompt is its history without the last item."""
    vectors = np.random.default_rng(0).normal(size=(len(world.catalog), 8)).astype(np.float32)
    asked = list(questions(world.histories, vectors, BootstrapRecipe()))
    told = [
        (prompts.rationale_query(world.catalog, one.relevant, one.target), one.history)
        for one in asked
    ]
    told += [
        (render_history(world.catalog, rows[:-1]), at)
        for at, rows in enumerate(world.histories)
        if len(rows) > 1
    ]
    rows = [Row(world.encoder.encode(text), 0, at) for text, at in told]
    assert len(rows) == 2 * len(asked)
    assert leaks(world, rows)[0] == set()


def test_the_search_for_leaks_finds_one(world: World) -> None:
    """The other way round: a history with its validation item in it is found."""
    histories = [list(rows) for rows in world.histories[:50]]
    histories[7].append(int(world.targets[7, 0]))
    texts = [
        prompts.sequence_text(SPACE, [tuple(sid) for sid in world.catalog.sids[rows].tolist()])
        for rows in histories
    ]
    rows = [Row(world.encoder.encode(text), 0, at) for at, text in enumerate(texts)]
    assert leaks(world, rows)[0] == {7}


def test_texts_without_a_user_know_items_and_never_who_bought_them(world: World) -> None:
    """Captions and general texts are the same for everybody."""
    for rows in (world.tasks.captions(), world.tasks.descriptions(), world.tasks.general()):
        assert all(row.history is None for row in rows)


def test_the_trie_holds_the_whole_catalog(world: World, dataset: Dataset) -> None:
    assert set(world.catalog.item_ids) == set(dataset.items)
    assert len(world.catalog.trie) == len(dataset.items)
    assert (world.catalog.trie.nodes(world.catalog.sids) >= 0).all()


def test_the_bundled_catalog_holds_every_item_and_only_training_popularity(
    dataset: Dataset,
) -> None:
    table = pq.read_table("releases/beauty/catalog.parquet").to_pydict()
    assert set(table["item_id"]) == set(dataset.items)
    counted = dict(zip(table["item_id"], table["popularity"], strict=True))
    assert {item: n for item, n in counted.items() if n} == split_dataset(dataset).popularity
