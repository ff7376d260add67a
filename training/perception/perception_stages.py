"""The reasoner's stages of perception: write a corpus, learn all tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from training.learner import Learner
from training.material import Material
from training.perception.corpus import load_stories, write_corpus
from training.perception.corpus_checks import StoryChecks
from training.perception.corpus_questions import CorpusQuestion, corpus_questions
from training.perception.local_writer import LocalWriter
from training.perception.perceive import held_out_items, perceive, without_words
from training.perception.perception_tasks import PerceptionTasks
from training.perception.relations import find_relations
from training.perception.stories import Stories
from training.perception.task_table import task_sources
from training.processes import processes
from training.rationale_writers import Thinker


def corpus_stage(material: Material, learner: Learner) -> dict[str, Any]:
    """Ask the local language model of `[corpus] base` for texts; the learner does not change.

    Of several processes, the first one asks. Raises InvalidSettings without a base.
    """
    recipe = material.run.recipe
    if not processes().is_first:
        return {}
    if not recipe.corpus.base:
        raise InvalidSettings("[corpus] base is empty, expected the directory of a causal LM")
    writer = LocalWriter(
        Path(recipe.corpus.base),
        max_tokens=recipe.corpus.max_tokens,
        temperature=recipe.corpus.temperature,
    )
    return write_corpus(
        writer,
        StoryChecks(material.catalog),
        _questions(material),
        recipe.corpus,
        _corpus_file(material),
        seed=recipe.seed,
    )


def perceive_stage(material: Material, learner: Learner) -> dict[str, Any]:
    """Learn all tasks of `[perception]`; measured if thoughts are among them."""
    recipe = material.run.recipe
    shown = replace(material, catalog=_shown_catalog(material))
    items = _shown_items(material)
    perception = PerceptionTasks(
        shown.catalog,
        shown.histories,
        learner.tokenizer,
        recipe.seed,
        items=items,
        most=recipe.reasoner.history,
        stories=_stories(material),
    )
    thinker = Thinker(recipe.thoughts, seed=recipe.seed)
    sources = task_sources(shown.tasks(learner, items), perception, thinker)
    checkpoint = material.checkpoint("perceive")
    made = perceive(learner, sources, recipe.perceive, recipe.perception, checkpoint)
    if not recipe.perception.thought:
        return made
    return {**made, "validation": material.probe(learner)}


def _stories(material: Material) -> Stories:
    """Return the texts of the stage `corpus`, if the recipe has it; otherwise none."""
    if "corpus" not in material.run.recipe.reasoner.stages:
        return Stories()
    return load_stories(_corpus_file(material), _questions(material))


def _questions(material: Material) -> list[CorpusQuestion]:
    recipe = material.run.recipe
    rng = np.random.default_rng(recipe.seed)
    pairs = find_relations(material.histories, rng, num_items=len(material.catalog))
    catalog, items = _shown_catalog(material), _shown_items(material)
    return list(corpus_questions(catalog, pairs, material.histories, recipe.corpus, items=items))


def _corpus_file(material: Material) -> Path:
    """Return the file of the answers; one for all recipes, as each answer names its inputs."""
    return material.run.work / "corpus.jsonl"


def _hidden_items(material: Material) -> list[int]:
    return held_out_items(len(material.catalog), material.run.recipe.perceive.held_out_items)


def _shown_items(material: Material) -> list[int]:
    return sorted(set(range(len(material.catalog))) - set(_hidden_items(material)))


def _shown_catalog(material: Material) -> Catalog:
    return without_words(material.catalog, _hidden_items(material))
