"""The long way of a reasoner: every stage, stopped and resumed, into a model that thinks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import InvalidSettings
from models.reasoner import TransformersReasoner
from tests.toy import toy_catalog, toy_histories
from training.activate import ActivateRecipe
from training.align import AlignRecipe, IntegrateRecipe, WarmupRecipe
from training.bootstrap import BootstrapRecipe
from training.enhance import EnhanceRecipe
from training.learner import ReasonerRecipe
from training.nano import NanoConfig
from training.reasoner_stages import REASONER_STAGES, reasoner_stage
from training.recipe import Recipe
from training.run import Run
from training.stages import run_stage
from training.thinkers import ThoughtRecipe

STAGES = ("align", "warmup", "integrate", "bootstrap", "activate", "enhance")
RECIPE = Recipe(
    nano=NanoConfig(text_tokens=600, width=32, layers=1, heads=2, mlp_width=64),
    reasoner=ReasonerRecipe(stages=STAGES),
    align=AlignRecipe(interleaved_epochs=1, learning_rate=2e-2),
    warmup=WarmupRecipe(batch_tokens=1024),
    integrate=IntegrateRecipe(tokens=20_000, batch_tokens=2048),
    bootstrap=BootstrapRecipe(users=6, tries=1, max_tokens=6),
    thoughts=ThoughtRecipe("bootstrapped", wish_share=0.2, silent_share=0.2, max_tokens=30),
    activate=ActivateRecipe(rationale_epochs=6, learning_rate=2e-2, batch_tokens=1024),
    enhance=EnhanceRecipe(group=2, beams=3, prompts=4, max_steps=2),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A data folder of the toy world, and quantizing as if it had been done."""
    catalog, data = toy_catalog(), tmp_path / "data"
    data.mkdir()
    histories = toy_histories(catalog, num_users=80)
    events = [
        (f"u{user}", catalog.item_ids[row], pos)
        for user, rows in enumerate(histories)
        for pos, row in enumerate(rows)
    ]
    columns = zip(("user_id", "item_id", "pos"), zip(*events, strict=True), strict=True)
    pq.write_table(pa.table(dict(columns)), data / "interactions.parquet")
    texts = {
        "item_id": catalog.item_ids,
        "title": catalog.titles,
        "categories": [" > ".join(path) for path in catalog.categories],
    }
    pq.write_table(pa.table(texts), data / "items.parquet")
    made = Run(data, tmp_path / "work", RECIPE)
    made.work.mkdir()
    catalog.save(made.work / "catalog.parquet")
    made.finish("quantize", {"space": {"sizes": [8, 8, 16], "prefix_depth": 2, "codebook": "toy"}})
    vectors = np.random.default_rng(0).normal(size=(len(catalog), 6)).astype(np.float32)
    file = made.work / f"item_vectors_{made.key('quantize')}.safetensors"
    save_file({"vectors": torch.from_numpy(vectors)}, file)
    return made


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.work / "reasoner/model.safetensors")


def test_all_stages_leave_a_model_that_closes_its_thoughts(run: Run) -> None:
    run_stage(run, "reasoner")
    made = run.outcome("reasoner")
    assert set(STAGES) <= set(made)
    assert made["bootstrap"]["asked"] == made["bootstrap"]["rationales"] <= 6
    assert made["activate"]["validation"]["closed_paths"] > 0.5
    assert made["validation"] == made["enhance"]["validation"]
    assert made["enhance"]["steps"] == 2
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
    """What qwen3.toml does, on a randomly initialised tiny Qwen3; its adapter stays small."""
    pytest.importorskip("peft")
    short = replace(RECIPE, reasoner=ReasonerRecipe(stages=("align",)))
    reasoner_stage(Run(run.data, run.work, short))
    (run.work / "reasoner").rename(tmp_path / "qwen3")
    lora = ReasonerRecipe(str(tmp_path / "qwen3"), STAGES[1:], "lora", lora_rank=2)
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
    assert set(STAGES) == set(REASONER_STAGES)
