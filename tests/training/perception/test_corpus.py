"""Corpus of a local language model: checks, cache, a killed run, templates beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_run import RECIPE, toy_run
from training.perception.corpus import load_stories, write_corpus
from training.perception.corpus_checks import StoryChecks, StoryFault
from training.perception.corpus_questions import CorpusQuestion, corpus_questions
from training.perception.local_writer import LocalWriter
from training.perception.perception_recipes import CorpusRecipe, PerceiveRecipe
from training.perception.relations import Relation
from training.reasoner_recipes import ReasonerRecipe
from training.reasoner_stages import reasoner_stage
from training.run import Run

RECIPE_OF_CORPUS = CorpusRecipe(items=3, pairs=1, histories=1, tries=2, max_tokens=6, batch=2)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return replace(toy_catalog(), brands=("Redken", *["Acme"] * 199))


@pytest.fixture(scope="module")
def questions(catalog: Catalog) -> list[CorpusQuestion]:
    pairs = [Relation(3, 9, "Not bought together"), Relation(4, 8, "Bought next")]
    items = range(1, len(catalog))
    return list(corpus_questions(catalog, pairs, [[1, 2]], RECIPE_OF_CORPUS, items=items))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 with a tokenizer: any causal LM directory will do."""
    run = toy_run(tmp_path_factory.mktemp("base"), RECIPE)
    short = replace(RECIPE, reasoner=ReasonerRecipe(stages=("align",)))
    reasoner_stage(Run(run.data, run.work, short))
    return run.work / "reasoner"


def test_questions_are_about_popular_items_related_pairs_and_histories(
    catalog: Catalog, questions: list[CorpusQuestion]
) -> None:
    assert [question.kind for question in questions] == ["item"] * 3 + ["pair", "history"]
    counts = [int(catalog.popularity[question.at[0]]) for question in questions[:3]]
    assert counts == sorted(catalog.popularity[1:].tolist(), reverse=True)[:3]
    assert questions[3].at == (4, 8)
    assert all(question.task in question.text for question in questions)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, StoryFault.UNCLOSED),
        ("An {word} <item_a_3> for all of us", StoryFault.MARKER),
        ("An {word}", StoryFault.LENGTH),
        ("The {word} and its typical buyer in one", StoryFault.ECHO),
        ("so very good so very good so very good {word}", StoryFault.REPEATS),
        ("This is good for people with hands", StoryFault.UNNAMED),
        ("This {word} is not by Redken but fine", StoryFault.FOREIGN_BRAND),
        ("This {word} is by Acme and good for hands", None),
    ],
)
def test_a_text_is_rejected_for_its_first_fault(
    catalog: Catalog, questions: list[CorpusQuestion], text: str | None, fault: StoryFault | None
) -> None:
    (word, *_) = sorted(questions[0].words - {"item"})
    said = None if text is None else text.format(word=word)
    assert StoryChecks(catalog).fault(said, questions[0]) == fault


def test_a_killed_run_goes_on_with_the_same_texts_and_asks_nothing_twice(
    catalog: Catalog, questions: list[CorpusQuestion], base: Path, tmp_path: Path
) -> None:
    writer = LocalWriter(base, max_tokens=6, temperature=0.7)
    file, checks = tmp_path / "corpus.jsonl", StoryChecks(catalog)

    def written(asked: list[CorpusQuestion]) -> dict[str, Any]:
        return write_corpus(writer, checks, asked, RECIPE_OF_CORPUS, file, seed=0)

    made = written(questions)
    assert made["asked"] == made["asked_now"] == 5
    assert made["kept"] == made["asked"] - made["templates"]
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:7])
    assert written(questions)["asked_now"] == 3
    assert file.read_text() == whole
    assert written(questions)["asked_now"] == 0
    other = write_corpus(writer, checks, questions, RECIPE_OF_CORPUS, file, seed=1)
    assert other["asked_now"] == 5


def test_kept_texts_become_stories_and_all_others_templates(
    questions: list[CorpusQuestion], base: Path, catalog: Catalog, tmp_path: Path
) -> None:
    file = tmp_path / "corpus.jsonl"
    writer = LocalWriter(base, max_tokens=1, temperature=0.7)
    made = write_corpus(writer, StoryChecks(catalog), questions, RECIPE_OF_CORPUS, file, seed=0)
    assert made["kept"] == 0
    assert made["templates"] == 5
    assert sum(made["dropped"].values()) == 10
    assert not load_stories(file, questions).items
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**one, "text": "Fine"}) + "\n" for one in answers))
    stories = load_stories(file, questions)
    assert len(stories.items) == 3
    assert stories.pairs == {(4, 8): "Fine"}
    assert stories.histories == {0: "Fine"}


def test_the_stages_write_a_corpus_and_learn_all_tasks(base: Path, tmp_path: Path) -> None:
    stages = ("corpus", "perceive")
    recipe = replace(
        RECIPE,
        reasoner=ReasonerRecipe(str(base), stages),
        corpus=replace(RECIPE_OF_CORPUS, base=str(base)),
        perceive=PerceiveRecipe(tokens=8_000, batch_tokens=2048, held_out_items=10),
        thoughts=replace(RECIPE.thoughts, template="three-stage"),
    )
    run = toy_run(tmp_path, recipe)
    made = reasoner_stage(run)
    assert made["corpus"]["asked"] == 5
    assert made["perceive"]["tokens"] >= 8_000
    assert 0 <= made["perceive"]["validation"]["prefix_recall"] <= 1
    assert (run.work / "reasoner/model.safetensors").is_file()


def test_a_base_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"\[corpus\] base = .*not the directory of a causal"):
        LocalWriter(tmp_path, max_tokens=1, temperature=1.0)
