"""Perception tasks: what codes, items, pairs and users stand for, and their mixture."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from models.catalog.catalog import Catalog
from models.reasoner import prompts
from models.reasoner.perception_prompts import UNRELATED, item_text
from tests import ROOT
from tests.fakes.toy import toy_catalog, toy_histories
from training.batching import Row
from training.learner import new_learner
from training.mixture import mix_sources
from training.perception.meanings import prefix_meanings
from training.perception.perceive import held_out_items, without_words
from training.perception.perception_recipes import PerceptionMixture
from training.perception.perception_tasks import PerceptionTasks
from training.perception.relations import find_relations
from training.perception.stories import Stories
from training.perception.task_examples import example_table, first_examples
from training.perception.task_table import TASKS, task_sources
from training.rationale_writers import Thinker
from training.reasoner_recipes import NanoConfig, ReasonerRecipe, ThoughtRecipe
from training.tasks import Tasks

NANO = NanoConfig(text_tokens=400, width=32, layers=1, heads=2, mlp_width=64)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def histories(catalog: Catalog) -> list[list[int]]:
    return [*toy_histories(catalog, num_users=30), [3, 9, 3, 11], [3, 9, 14], [9, 3]]


@pytest.fixture(scope="module")
def tokenizer(catalog: Catalog) -> Any:
    texts = [prompts.caption(catalog, row) for row in range(len(catalog))]
    return new_learner(ReasonerRecipe(), NANO, catalog.space, texts, seed=0).tokenizer


@pytest.fixture
def tasks(catalog: Catalog, histories: list[list[int]], tokenizer: Any) -> PerceptionTasks:
    return PerceptionTasks(catalog, histories, tokenizer, seed=0)


def decoded(tokenizer: Any, row: Row) -> tuple[str, str]:
    """The context and the tokens with a loss, as text."""
    return (
        str(tokenizer.decode(row.ids[: row.num_context])),
        str(tokenizer.decode(row.ids[row.num_context :])),
    )


def test_the_meaning_of_a_prefix_is_the_most_frequent_topic_of_its_items(
    catalog: Catalog, tokenizer: Any, tasks: PerceptionTasks
) -> None:
    meanings = prefix_meanings(catalog)
    prefixes = {tuple(sid[:depth]) for sid in catalog.sids.tolist() for depth in (1, 2)}
    assert meanings.keys() == prefixes
    for prefix, text in meanings.items():
        topics = Counter(prompts.topic(catalog, row) for row in catalog.rows_below(prefix))
        first = text.removeprefix("Mostly ").split(";")[0].split(", then ")[0]
        assert topics[first] == max(topics.values())
    rows = [decoded(tokenizer, row) for row in tasks.meanings()]
    assert len(rows) == len(prefixes)
    assert {answer for _, answer in rows} == {f"{text}.<|im_end|>" for text in meanings.values()}


def test_words_of_a_meaning_are_more_frequent_below_the_prefix_than_elsewhere(
    catalog: Catalog,
) -> None:
    words = ["common rare" if row < 20 else "common" for row in range(len(catalog))]
    found = prefix_meanings(replace(catalog, titles=tuple(words)))
    first = tuple(catalog.sids[0, :1].tolist())
    assert found[first].endswith("words: rare")
    assert all("common" not in text for text in found.values())


def test_relations_are_counted_by_users_and_in_order() -> None:
    histories = [[1, 2], [1, 2], [2, 5, 1], [7, 8, 9], [9, 6, 7], [4, 4, 4]]
    found = {one[:2]: one.kind for one in find_relations(histories, rng(), num_items=50)}
    assert found[1, 2] == "Bought next"
    assert (2, 1) not in found
    assert found[7, 9] == "Bought together"
    assert (4, 4) not in found
    often = find_relations([[1, 2]] * 5, rng(), num_items=50)[0]
    assert (often.first, often.second, often.kind) == (1, 2, "Bought next, often")


def test_unrelated_pairs_were_bought_together_by_nobody() -> None:
    histories = np.random.default_rng(7).integers(100, size=(100, 4)).tolist() * 2
    found = find_relations(histories, rng(), num_items=100)
    strange = [one for one in found if one.kind == UNRELATED]
    near = {
        frozenset((first, second))
        for rows in histories
        for at, first in enumerate(rows)
        for second in rows[at + 1 : at + 4]
    }
    assert strange
    assert not [one for one in strange if frozenset(one[:2]) in near]


def test_item_and_pair_tasks_go_both_ways(
    catalog: Catalog, tokenizer: Any, tasks: PerceptionTasks
) -> None:
    asked = [decoded(tokenizer, row) for row in tasks.lookups()]
    described = [(prompts.caption(catalog, row), item_text(catalog, row)) for row in range(200)]
    assert Counter(described) == Counter(
        (context.split("item is this: ")[1].split("?<")[0], answer) for context, answer in asked
    )
    there = {decoded(tokenizer, row)[1] for row in tasks.relations()}
    assert any(answer.startswith("Bought next: ") for answer in there)
    for context, answer in (decoded(tokenizer, row) for row in tasks.companions()):
        first, second = catalog.space.parse(context + answer)
        assert first != second
        assert UNRELATED not in context


def test_user_tasks_ask_for_the_item_behind_the_history(
    catalog: Catalog, histories: list[list[int]], tokenizer: Any, tasks: PerceptionTasks
) -> None:
    titles = [title or "" for title in catalog.titles]
    for row in tasks.next_titles():
        context, answer = decoded(tokenizer, row)
        assert row.history is not None
        history = histories[row.history]
        cut = len(catalog.space.parse(context))
        assert catalog.space.parse(context) == tuple(
            tuple(catalog.sids[at].tolist()) for at in history[:cut]
        )
        assert answer == f"{titles[history[cut]]}.<|im_end|>"
    for row in tasks.named_histories():
        context, answer = decoded(tokenizer, row)
        assert row.history is not None
        history = histories[row.history]
        assert any(
            answer == item_text(catalog, history[cut])
            and f"bought {'; '.join([titles[at] for at in history[:cut]][-8:])}. Which" in context
            for cut in range(1, len(history))
        )


def test_a_text_of_a_language_model_replaces_the_template(
    catalog: Catalog, histories: list[list[int]], tokenizer: Any
) -> None:
    stories = Stories(items={5: "A fine thing"}, pairs={(3, 9): "A fine pair"}, histories={2: "Ah"})
    tasks = PerceptionTasks(catalog, histories, tokenizer, seed=0, stories=stories)
    told = [decoded(tokenizer, row)[1] for row in tasks.item_stories()]
    assert sum("A fine thing" in text for text in told) == 1
    assert sum("A fine pair" in text for text in told) == 1
    assert sum("An item of the kind" in text for text in told) == len(catalog) - 1
    users = {row.history: decoded(tokenizer, row)[1] for row in tasks.history_stories()}
    assert users[2].endswith(" Ah<|im_end|>")
    assert sum("Most of it is" in text for text in users.values()) == len(histories) - 1


def test_every_task_has_a_share_and_rows_and_the_mixture_keeps_the_shares(
    catalog: Catalog, histories: list[list[int]], tokenizer: Any, tasks: PerceptionTasks
) -> None:
    shares = vars(PerceptionMixture())
    old = Tasks(catalog, histories, tokenizer, seed=0)
    sources = task_sources(old, tasks, Thinker(ThoughtRecipe()))
    assert list(shares) == [task.name for task in TASKS] == list(sources)
    assert {task.number for task in TASKS if task.number} == set(range(1, 9))
    drawn: Counter[str] = Counter()

    def counted(name: str) -> Any:
        for row in sources[name]():
            drawn[name] += len(row.ids)
            yield row

    rows = list(mix_sources({name: partial(counted, name) for name in shares}, shares, 200_000))
    assert sum(len(row.ids) for row in rows) == pytest.approx(200_000, abs=2000)
    for name, share in shares.items():
        assert drawn[name] / drawn.total() == pytest.approx(
            share / sum(shares.values()), abs=0.015
        ), name


def test_words_of_held_out_items_are_in_no_row(
    catalog: Catalog, histories: list[list[int]], tokenizer: Any
) -> None:
    catalog = replace(catalog, titles=tuple(f"title{row}x" for row in range(len(catalog))))
    hidden = held_out_items(len(catalog), 40)
    assert hidden == np.random.default_rng(1).permutation(len(catalog))[:40].tolist()
    shown = without_words(catalog, hidden)
    items = sorted(set(range(len(catalog))) - set(hidden))
    sources = task_sources(
        Tasks(shown, histories, tokenizer, seed=0, items=items),
        PerceptionTasks(shown, histories, tokenizer, seed=0, items=items),
        Thinker(ThoughtRecipe()),
    )
    del sources["general"]
    texts = "\n".join(tokenizer.decode(row.ids) for of in sources.values() for row in of())
    named = [row for row in range(len(catalog)) if f"title{row}x" in texts]
    assert named == items


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_page_has_a_row_for_every_task() -> None:
    page = (ROOT / "docs" / "reasoner-tasks.md").read_text()
    rows = {tuple(line.split(" | ")[:3]) for line in page.splitlines()}
    for task in TASKS:
        number = "" if task.number is None else f"{task.number}"
        assert (f"| {task.name}", task.level, number) in rows


def test_the_table_has_a_line_of_five_cells_for_every_task(
    catalog: Catalog, histories: list[list[int]], tokenizer: Any, tasks: PerceptionTasks
) -> None:
    old = Tasks(catalog, histories, tokenizer, seed=0)
    sources = task_sources(old, tasks, Thinker(ThoughtRecipe()))
    found = first_examples(sources, tokenizer)
    assert [example.task for example in found] == list(TASKS)
    lines = example_table(found).splitlines()[2:]
    assert [line.count(" | ") for line in lines] == [4] * len(TASKS)
    assert all(len(line) < 600 for line in lines)
