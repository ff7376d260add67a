"""Several processes of one training, over gloo, with the result of one process."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.fakes.toy_run import RECIPE, toy_run
from training.recipe import Recipe, load_recipe
from training.run import Run

NUM = 2
SHORT = replace(
    RECIPE,
    align=replace(RECIPE.align, sequence_epochs=1, interleaved_epochs=0),
    activate=replace(RECIPE.activate, rationale_epochs=4),
    enhance=replace(RECIPE.enhance, max_steps=1),
)


def write_recipe(recipe: Recipe, file: Path) -> None:
    """Write the tables of a recipe; JSON values are TOML values too."""
    tables = recipe.to_json()
    del tables["seed"]
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    file.write_text("\n".join(lines))
    assert load_recipe(file) == recipe


def train_apart(run: Run, config: Path, *, num: int) -> dict[str, Any]:
    """Run `training.remote run` in so many processes; return the results of the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--data", str(run.data), "--work", str(run.work), "--config", str(config)]
    started = []
    for index in range(num):
        joined: dict[str, object] = {
            "WORLD_SIZE": num,
            "RANK": index,
            "LOCAL_RANK": index,
            "LOCAL_WORLD_SIZE": num,
        }
        joined |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        env = os.environ | {name: str(value) for name, value in joined.items()}
        env["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "training.remote", "run", *given]
        started.append(
            subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        )
    try:
        printed = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * num
    assert [bool(text) for text in printed] == [True] + [False] * (num - 1)
    results: dict[str, Any] = json.loads((run.work / "results.json").read_text())
    assert results == json.loads(printed[0])
    return results


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """Each takes half of every batch, of the questions and of the prompts of a step."""
    pytest.importorskip("accelerate")
    write_recipe(SHORT, tmp_path / "recipe.toml")
    made = []
    for num in (1, NUM):
        (tmp_path / f"{num}").mkdir()
        run = toy_run(tmp_path / f"{num}", SHORT)
        made.append(train_apart(run, tmp_path / "recipe.toml", num=num))
    alone, together = made
    for stage in ("align", "warmup", "integrate", "activate"):
        assert together[stage]["loss"] == pytest.approx(alone[stage]["loss"], abs=2e-3)
        assert together[stage]["tokens"] == alone[stage]["tokens"]
    assert together["bootstrap"]["asked"] == alone["bootstrap"]["asked"] == 6
    assert together["enhance"]["steps"] == alone["enhance"]["steps"] == 1
    assert together["enhance"]["closed"] == pytest.approx(alone["enhance"]["closed"], abs=0.3)
    assert together["validation"]["closed_paths"] > 0
