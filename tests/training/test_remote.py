"""The reasoner trained apart from the rest: prepared, checked before, trained, checked after."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.catalog.catalog import build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.errors import InvalidInput, InvalidRelease
from models.reasoner.transformers_engine import Sampling
from tests.fakes.tiny_base import write_base
from tests.fakes.toy import toy_catalog, toy_release
from tests.fakes.toy_run import RECIPE, toy_run
from training.reasoner_recipes import ReasonerRecipe
from training.remote import check_before, export_adapter, main, prepare, train
from training.renew import renew
from training.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    recipe = replace(
        RECIPE,
        reasoner=ReasonerRecipe(stages=("align", "activate", "enhance")),
        thoughts=replace(RECIPE.thoughts, template="three-stage", max_tokens=80),
    )
    return toy_run(tmp_path, recipe)


@pytest.fixture
def release(run: Run, tmp_path: Path) -> Path:
    """A release with only a catalog and a SID space; no other part is read."""
    directory = tmp_path / "release"
    directory.mkdir()
    catalog = run.catalog()
    catalog.save(directory / "catalog.parquet")
    spec = {"sizes": list(catalog.space.sizes), "prefix_depth": 2, "codebook": "toy"}
    (directory / "manifest.json").write_text(json.dumps({"space": spec}))
    (run.work / "quantize.json").unlink()
    return directory


def test_prepared_and_checked_it_trains_and_says_what_it_made(run: Run, release: Path) -> None:
    with pytest.raises(InvalidInput, match="not prepared"):
        check_before(run)
    prepare(run, release)
    check_before(run)
    results = train(run)
    assert results == json.loads((run.work / "results.json").read_text())
    assert results["check"]["closed_paths"] > 0.3
    assert results["check"]["prefixes"] > 1
    assert results["recipe"]["enhance"]["reward"] == "rollout-beam"
    assert results["device"]
    stages = ("align", "activate", "enhance")
    assert results["hours"] == pytest.approx(
        sum(results[stage]["seconds"] for stage in stages) / 3600, abs=1e-3
    )
    again = train(run)
    assert again["enhance"] == results["enhance"]


def test_a_base_that_never_learns_to_think_need_not_close_a_thought(tmp_path: Path) -> None:
    align = replace(RECIPE.align, sequence_epochs=1, interleaved_epochs=0, caption_epochs=0)
    recipe = replace(RECIPE, align=align, reasoner=ReasonerRecipe(stages=("align",)))
    results = train(toy_run(tmp_path, recipe))
    assert results["check"]["closed_paths"] < 1


def test_a_release_takes_the_reasoner_that_was_trained_apart(run: Run, tmp_path: Path) -> None:
    before = toy_release(tmp_path / "beauty", catalog=run.catalog())
    reasoner: dict[str, Any] = {
        "keep_weights": True,
        "teacher_dir": lambda learns, _: tmp_path / learns,
        "reasoner_work": run.work,
    }
    with pytest.raises(InvalidRelease, match="no finished reasoner"):
        renew(before.directory, run.data, RECIPE, **reasoner)
    short = replace(run.recipe, reasoner=ReasonerRecipe(stages=("align", "activate")))
    train(replace(run, recipe=short))
    after = renew(before.directory, run.data, RECIPE, **reasoner)
    names = ("catalog.parquet", "online.safetensors", "reasoner/model.safetensors")
    same = [before.manifest.files[name] == after.manifest.files[name] for name in names]
    assert same == [True, True, False]
    assert after.manifest.recipe["data_sha256"] == "toy"
    assert after.manifest.recipe["thoughts"]["template"] == "three-stage"
    assert after.manifest.metrics["reasoner"]["check"]["prefixes"] > 1
    assert Sampling.of(after.reasoner_dir).max_tokens == 80
    other = toy_release(tmp_path / "other", catalog=toy_catalog(seed=9))
    with pytest.raises(InvalidRelease, match="SIDs that differ from toy"):
        renew(other.directory, run.data, RECIPE, **reasoner)


def test_a_release_of_other_items_is_refused(run: Run, release: Path) -> None:
    space = SidSpace((8, 8, 16), 2, "toy")
    catalog = build_catalog(space, {"b": (0, 0, 0)}, {"b": ItemText(None, None, ())}, {})
    catalog.save(release / "catalog.parquet")
    with pytest.raises(InvalidInput, match="201 items differ"):
        prepare(run, release)
    (release / "manifest.json").write_text("{}")
    with pytest.raises(InvalidRelease, match="no manifest with a SID space"):
        prepare(run, release)


def test_the_command_refuses_in_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[reasoner]\nbase = 'nowhere'")
    where = ["--data", str(run.data), "--work", str(tmp_path / "new"), "--config", str(config)]
    assert main(["run", *where]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training.remote: ")
    assert "not prepared" in line


def test_a_trained_adapter_is_written_beside_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both together are the merged reasoner of the run; before the run there is none."""
    peft: Any = pytest.importorskip("peft")
    base = write_base(toy_catalog(), tmp_path / "base")
    reasoner = ReasonerRecipe(base=str(base), stages=("integrate",), tuning="lora", lora_rank=2)
    run = toy_run(tmp_path, replace(RECIPE, reasoner=reasoner))
    with pytest.raises(InvalidInput, match="no finished reasoner"):
        export_adapter(run, tmp_path / "apart")
    train(run)
    export_adapter(run, tmp_path / "apart")
    load = AutoModelForCausalLM.from_pretrained
    merged: Any = load(run.work / "reasoner", dtype=torch.float32)
    plain = load(tmp_path / "apart" / "reasoner", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(plain, str(tmp_path / "apart" / "adapter"))
    ids = torch.arange(40).unsqueeze(0)
    expected = merged(input_ids=ids).logits
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=0.05, atol=0.05)
    where = ["--data", str(run.data), "--work", str(run.work), "--config", "recipe.toml"]
    with pytest.raises(SystemExit):
        main(["adapter", *where])
    assert "adapter needs --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smollm2", "qwen3"])
def test_a_script_and_its_recipe_name_each_other(name: str) -> None:
    script = Path(f"training/runs/{name}.sh").read_text()
    assert f"--config training/runs/{name}.toml" in script
    assert f"sh training/runs/{name}.sh" in Path(f"training/runs/{name}.toml").read_text()


def test_the_training_apart_imports_nothing_of_the_online_tier() -> None:
    """A machine with a GPU has torch and transformers, and need not have the rest."""
    code = "import sys, training.remote; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "transformers" in loaded
    assert not loaded & {"onnxruntime", "redis", "fastapi", "pydantic_settings"}
    assert "models.online.torch_runtime" not in done.stdout.split()
