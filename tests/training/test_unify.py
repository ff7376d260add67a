"""Specialise by category, unify on verified hits, and the gain of a thought."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.catalog.catalog import Catalog
from models.reasoner.next_items import NextItem, score_codes
from models.reasoner.prompts import THINK_END
from models.reasoner.think import UserHistory, render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from tests.fakes.toy_run import RECIPE, toy_run
from training.learner import Learner, load_learner
from training.reasoner_recipes import EnhanceRecipe, ReasonerRecipe, ThoughtRecipe, UnifyRecipe
from training.reasoner_stages import reasoner_stage
from training.run import Run
from training.specialise import category, split_by_category, verified_hits
from training.thought_gain import measure_gain

STAGES = ("align", "activate", "unify")
ROLLOUTS = EnhanceRecipe(group=4, beams=120, prompts=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run through the stage `unify`, whose specialists take one step each."""
    recipe = replace(
        RECIPE,
        reasoner=ReasonerRecipe(stages=STAGES),
        thoughts=ThoughtRecipe("three-stage", silent_share=0.2, max_tokens=60),
        activate=replace(RECIPE.activate, rationale_epochs=8),
        unify=UnifyRecipe(categories=2, steps=1, prompts=8, judged=6, paths=2),
        enhance=ROLLOUTS,
    )
    made = toy_run(tmp_path_factory.mktemp("unify"), recipe)
    report = reasoner_stage(made)
    made.finish("reasoner", report)
    return made


@pytest.fixture(scope="module")
def learner(run: Run) -> Learner:
    return load_learner(run.recipe.reasoner, run.work / "activate", run.catalog().space)


def test_groups_are_the_largest_categories_of_targets_and_the_rest(run: Run) -> None:
    catalog = run.catalog()
    rng = np.random.default_rng(0)
    histories = [rng.integers(len(catalog), size=3).tolist() for _ in range(90)]
    groups = split_by_category(catalog, [*histories, [5]], 2)
    assert len(groups) == 3
    assert sorted(rows for found in groups.values() for rows in found) == sorted(histories)
    for name, found in groups.items():
        if name != "other":
            assert {category(catalog, rows[-1]) for rows in found} == {name}
            assert len(found) >= max(Counter(_others(catalog, groups)).values())


def test_the_stage_reports_hits_by_category_and_the_gain_before_and_after(run: Run) -> None:
    made = run.outcome("reasoner")["unify"]
    assert len(made["categories"]) == 3
    for found in made["categories"].values():
        assert 0 <= found["hits"] <= found["sampled"] <= 8 * ROLLOUTS.group
    assert made["rows"] >= sum(found["hits"] for found in made["categories"].values()) > 0
    for gain in (made["gain_before"], made["gain"]):
        assert gain["users"] == 6
        assert gain["gain"] == pytest.approx(gain["thought"] - gain["at_once"], abs=2e-4)


def log_prob(reasoner: TransformersReasoner, prompt: str, thought: str, codes: list[int]) -> float:
    """Return the log-probability of a SID after one thought."""
    scorer = reasoner.recite([prompt], [[thought]]).scorer()
    return float(score_codes(scorer, np.array([codes]))[0, -1])


def test_a_verified_hit_raises_the_target_and_finds_it(run: Run, learner: Learner) -> None:
    catalog = run.catalog()
    histories = [list(rows) for rows in _histories(run)][:8]
    hits = verified_hits(learner, catalog, histories, ROLLOUTS, 60, seed=0)
    assert hits.sampled == 8 * ROLLOUTS.group
    assert hits.rows
    reasoner = TransformersReasoner(learner.model, learner.tokenizer, catalog.space, Sampling())
    prompts = {render_history(catalog, rows[:-1]): rows[-1] for rows in histories}
    for row in hits.rows[:6]:
        context = str(learner.tokenizer.decode(row.ids[: row.num_context]))
        answer = str(learner.tokenizer.decode(row.ids[row.num_context :]))
        target = catalog.sids[prompts[context]].tolist()
        assert answer.endswith(f"{THINK_END}{catalog.space.text(target)}<|im_end|>")
        thought = answer.split(THINK_END)[0]
        raised = log_prob(reasoner, context, thought, target)
        assert thought
        assert raised > log_prob(reasoner, context, "", target)


def test_a_reasoner_that_thinks_nothing_gains_nothing(run: Run, learner: Learner) -> None:
    """Its thoughts are empty, as training made it do; so both sides are the same."""
    catalog = run.catalog()

    class Silent(TransformersReasoner):
        def think(self, prompts: Any, *, paths: int, seeds: Any) -> Any:
            return self.recite(prompts, [[""] * paths] * len(prompts))

    reasoner = Silent(learner.model, learner.tokenizer, catalog.space, Sampling())
    asked = [NextItem(UserHistory(f"{row}", (row, row + 1)), row + 2) for row in range(5)]
    gain = measure_gain(reasoner, catalog, asked, paths=3, seed=0)
    assert gain.gain == pytest.approx(0, abs=1e-4)
    assert gain.half_width == pytest.approx(0, abs=1e-3)
    thinking = TransformersReasoner(learner.model, learner.tokenizer, catalog.space, Sampling())
    assert measure_gain(thinking, catalog, asked, paths=3, seed=0).half_width > 0.01


def _others(catalog: Catalog, groups: dict[str, list[list[int]]]) -> list[str]:
    return [category(catalog, rows[-1]) for rows in groups["other"]]


def _histories(run: Run) -> list[tuple[int, ...]]:
    catalog: Catalog = run.catalog()
    return [
        catalog.rows(one.item_id for one in events)
        for events in run.dataset.histories.values()
        if len(events) > 2
    ]
