"""The long way of a reasoner: every stage, stopped and resumed, into a model that thinks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.errors import InvalidSettings
from models.reasoner.prompts import evidence_line
from models.reasoner.transformers_engine import TransformersReasoner
from tests.fakes.toy_run import RECIPE, STAGES, toy_run
from training.learner import new_learner
from training.material import gather
from training.rationale_writers import Thinker
from training.reasoner_recipes import ReasonerRecipe, ThoughtRecipe
from training.reasoner_stages import REASONER_STAGES, reasoner_stage
from training.recipe import Recipe, load_recipe
from training.run import Run
from training.split import sample_users
from training.stages import run_stage


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return toy_run(tmp_path, RECIPE)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.work / "reasoner/model.safetensors")


def test_all_stages_leave_a_model_that_closes_its_thoughts(run: Run) -> None:
    run_stage(run, "reasoner")
    made = run.outcome("reasoner")
    assert set(STAGES) <= set(made)
    assert made["bootstrap"]["asked"] == made["bootstrap"]["rationales"] <= 6
    assert made["activate"]["validation"]["closed_paths"] > 0.3
    assert made["validation"] == made["enhance"]["validation"]
    assert made["enhance"]["steps"] == 2
    shift = made["validation"]["wish_shift"]
    assert 0 <= shift["unasked"] <= 1
    assert 0 < shift["asked"] <= 1
    space = run.catalog().space
    reasoner = TransformersReasoner.load(run.work / "reasoner", space, dtype=torch.bfloat16)
    assert next(reasoner.model.parameters()).dtype == torch.bfloat16
    assert not list(run.work.glob("*.checkpoint"))
    assert json.loads((run.work / "enhance.json").read_text())["made"] == made["enhance"]


def test_a_stopped_run_goes_on_after_its_last_whole_stage(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a change of a later table redoes no stage before it."""
    run_stage(run, "reasoner")
    whole = weights(run)
    for stage in ("reasoner", "enhance", "activate"):
        (run.work / f"{stage}.json").unlink()
    times = {stage: (run.work / f"{stage}.json").stat().st_mtime_ns for stage in STAGES[:4]}
    run_stage(run, "reasoner")
    resumed = weights(run)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    gentler = replace(RECIPE.enhance, max_steps=1)
    other = Run(run.data, run.work, replace(RECIPE, enhance=gentler))
    assert [other.is_done(stage) for stage in STAGES] == [True] * 5 + [False]
    assert not other.is_done("reasoner")
    assert times == {stage: (run.work / f"{stage}.json").stat().st_mtime_ns for stage in STAGES[:4]}


def test_lora_on_a_local_base_goes_the_same_way(run: Run, tmp_path: Path) -> None:
    """The stages of qwen3.toml on a tiny random Qwen3; its adapter stays small."""
    pytest.importorskip("peft")
    short = replace(RECIPE, reasoner=ReasonerRecipe(stages=("align",)))
    reasoner_stage(Run(run.data, run.work, short))
    (run.work / "reasoner").rename(tmp_path / "qwen3")
    base_dir = str(tmp_path / "qwen3")  # it knows all tokens already
    lora = ReasonerRecipe(base_dir, STAGES[1:], "lora", lora_rank=2, rows="itemic")
    made = Run(run.data, run.work, replace(RECIPE, reasoner=lora))
    run_stage(made, "reasoner")
    assert (run.work / "enhance/adapter").is_dir()
    assert not (run.work / "enhance/model.safetensors").exists()
    base = load_file(tmp_path / "qwen3/model.safetensors")
    assert set(weights(made)) == set(base)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (replace(RECIPE, reasoner=ReasonerRecipe(stages=("alig",))), r"unknown \['alig'\]"),
        (
            replace(RECIPE, reasoner=ReasonerRecipe(stages=("activate",))),
            'template "bootstrapped" needs the stage bootstrap',
        ),
    ],
)
def test_stages_that_do_not_go_together_are_refused(run: Run, recipe: Recipe, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        reasoner_stage(Run(run.data, run.work, recipe))


def test_every_stage_can_be_asked_for() -> None:
    assert {*STAGES, "select", "corpus", "perceive", "unify"} == set(REASONER_STAGES)


def test_unseen_items_are_learnt_of_some_users_and_judged_of_the_others(tmp_path: Path) -> None:
    """No prompt of a learner shows what the user's own events add to the counts."""
    recipe = replace(
        RECIPE,
        reasoner=ReasonerRecipe(stages=("activate",), unseen=0.4),
        thoughts=ThoughtRecipe(silent_share=0.5, evidence=1.0),
    )
    run = toy_run(tmp_path, recipe)
    material = gather(run)
    rows = {item: row for row, item in enumerate(material.catalog.item_ids)}
    users = [user for user in run.split.users if user.has_target]
    learnt = {tuple(history) for history in material.histories}
    expected = {
        tuple(rows[item] for item in (*user.train, user.valid or "")): user for user in users
    }
    assert learnt < set(expected)
    assert len(learnt) == round(0.4 * len(users))
    judged = sample_users(run.split, len(users) - len(learnt), recipe.seed)
    assert not {expected[history].user_id for history in learnt} & {one.user_id for one in judged}
    learner = new_learner(recipe.reasoner, recipe.nano, material.catalog.space, ["a b"], seed=0)
    texts = []
    for row in material.tasks(learner).rationales(Thinker(recipe.thoughts)):
        assert row.history is not None
        history = material.histories[row.history]
        text = str(learner.tokenizer.decode(row.ids))
        texts.append(text)
        sids = [tuple(sid) for sid in material.catalog.sids[history].tolist()]
        assert material.catalog.space.parse(text) == tuple(sids)
        assert material.evidence is not None
        line = evidence_line(material.catalog.space, material.evidence.cite(history[:-1]))
        assert line in text
    assert sum("Others bought" in text for text in texts) > len(texts) / 2


@pytest.mark.parametrize(
    ("table", "key", "value"), [("thoughts", "evidence", 1.5), ("reasoner", "unseen", 1.0)]
)
def test_a_share_beyond_its_range_is_named(
    tmp_path: Path, table: str, key: str, value: float
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(f"[{table}]\n{key} = {value}\n")
    with pytest.raises(InvalidSettings, match=rf"\[{table}\] {key} {value}, expected 0"):
        load_recipe(file)
