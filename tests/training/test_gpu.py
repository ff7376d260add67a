"""Steps of each stage at own sizes; on a GPU also bfloat16, the engine and the check of memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.catalog.catalog import Catalog
from models.reasoner.beam import beam_search
from models.reasoner.think import UserHistory, render_history
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from offline.settings import RefreshSettings
from offline.think.engine_choice import EngineSettings
from offline.think.engines import load_engine
from tests.fakes.tiny_base import lora_learner, write_base
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_run import RECIPE, toy_run
from training.memory_check import StageSteps
from training.reasoner_recipes import HardwareRecipe, ReasonerRecipe
from training.recipe import Recipe
from training.remote import check_before, train
from training.tasks import Tasks

STAGES = ("warmup", "integrate", "bootstrap", "select", "activate", "enhance")


def lora_recipe(base: Path) -> Recipe:
    reasoner = ReasonerRecipe(base=str(base), stages=STAGES, tuning="lora", lora_rank=2)
    hardware = HardwareRecipe(micro_tokens=1024, checkpointing=True, rollout_prompts=2)
    return replace(RECIPE, reasoner=reasoner, hardware=hardware)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def base(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(catalog, tmp_path_factory.mktemp("base"))


def all_steps(base: Path, catalog: Catalog) -> StageSteps:
    recipe = lora_recipe(base)
    learner = lora_learner(base, catalog, recipe.hardware)
    histories = [rows for rows in toy_histories(catalog, num_users=20) if len(rows) > 1]
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0)
    return StageSteps(learner, catalog, tasks, histories, recipe)


def test_a_step_of_each_stage_has_the_sizes_of_the_recipe(base: Path, catalog: Catalog) -> None:
    """On any device; `remote run` measures these steps on a GPU."""
    steps = all_steps(base, catalog)
    found = {name: step() for name, step in steps.by_stage().items()}
    recipe = steps.recipe
    assert set(found) == {*STAGES, "enhance: rollouts"}
    for stage, wanted in (("warmup", recipe.warmup), ("integrate", recipe.integrate)):
        assert found[stage]["tokens"] == pytest.approx(wanted.batch_tokens, rel=0.5)
    assert found["activate"]["tokens"] <= recipe.activate.batch_tokens
    assert len(found["bootstrap"]) == recipe.bootstrap.batch_users
    assert len(found["select"]) == recipe.select.batch_users
    assert found["enhance"]["steps"] == 1
    beams = found["enhance: rollouts"]
    assert len(beams) == recipe.enhance.group * recipe.hardware.rollout_prompts
    assert all(len(of_path) == recipe.enhance.beams for of_path in beams)


@pytest.mark.gpu
class TestGpu:
    """Tests that need a GPU."""

    def test_every_stage_trains_in_bfloat16(self, base: Path, catalog: Catalog) -> None:
        steps = all_steps(base, catalog)
        model = steps.learner.model
        assert model.device.type == "cuda"
        assert model.dtype == torch.bfloat16
        for name, step in steps.by_stage().items():
            found: Any = step()
            assert not isinstance(found, dict) or np.isfinite(found.get("loss", 0.0)), name
        trained = [value for value in model.parameters() if value.requires_grad]
        assert all(bool(value.isfinite().all()) for value in trained)

    def test_the_engine_finds_what_it_finds_on_the_cpu(self, release: Release) -> None:
        prompts = [render_history(release.catalog, rows) for rows in ((1, 2, 3), (5,), (7, 8))]
        beams = []
        for device in ("cpu", "cuda"):
            reasoner = TransformersReasoner.load(
                release.reasoner_dir, release.space, device=device, dtype=torch.float32
            )
            thoughts = reasoner.recite(prompts, [["a thought", ""]] * 3)
            beams.append(beam_search(thoughts.scorer(), release.catalog.trie, depth=2, width=4))
        for on_cpu, on_gpu in zip(*beams, strict=True):
            expected = dict(on_cpu)
            assert dict(on_gpu) == pytest.approx(expected, abs=1e-3)

    def test_a_night_takes_the_gpu_by_itself(self, release: Release, tmp_path: Path) -> None:
        settings = RefreshSettings(release.directory, tmp_path)
        torch.cuda.reset_peak_memory_stats()
        (found,) = load_engine(release, settings, EngineSettings())([UserHistory("u", (1, 2))])
        assert torch.cuda.max_memory_allocated() > 0
        assert found.prefixes

    def test_the_check_prints_the_measured_peak(
        self, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        run = toy_run(tmp_path, lora_recipe(base))
        check_before(run)
        said = [record.getMessage() for record in caplog.records]
        assert any(torch.cuda.get_device_name() in line for line in said)
        (head,) = (line for line in said if line.startswith("| stage"))
        assert head.endswith("| measured |")
        assert sum(line.startswith("| enhance") for line in said) == 2
        assert train(run)["check"]["prefixes"] >= 0
