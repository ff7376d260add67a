"""The reasoner's stages on a remote machine with a GPU and few packages.

    python -m training.remote prepare --release releases/beauty --data ... --work ... --config ...
    python -m training.remote run --data ... --work ... --config ...
    python -m training.remote adapter --data ... --work ... --config ... --out ...

`prepare` runs where the whole project is installed. It makes a work folder with the SIDs of a
release and the item vectors. `run` needs torch, transformers, pyarrow, rich and, for LoRA, peft.
It checks the setup, trains, checks the result and writes `results.json`. A stopped run continues
when it is started again. `adapter` writes a trained LoRA beside its base, for vLLM.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from models.catalog.catalog import Catalog, load_catalog
from models.catalog.sid import SidSpace
from models.errors import InvalidInput, InvalidRelease, ThinkAheadError
from models.reasoner.placement import place
from models.reasoner.think import UserHistory, think_users
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from training.batching import pack_rows
from training.enhance import roll_out
from training.language import add_gradients, precision
from training.learner import Learner, new_learner, plain_model
from training.material import gather
from training.memory_check import StageSteps, check_memory
from training.processes import processes
from training.reasoner_recipes import EnhanceRecipe
from training.reasoner_stages import base_texts, device_name, last_learner, reasoner_stage
from training.recipe import load_recipe
from training.run import Run
from training.split import training_histories

logger = logging.getLogger(__name__)
_BAD_INPUT = 78
_NUM_CHECKED = 8


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    transformers_logging.disable_progress_bar()
    try:
        run = Run(options.data, options.work, load_recipe(options.config, seed=options.seed))
        if options.command == "prepare":
            prepare(run, options.release)
            return 0
        if options.command == "adapter":
            export_adapter(run, options.out)
            return 0
        processes()  # joins the others, before anything is put on a GPU
        check_before(run)
        if not options.check_only:
            results = train(run)
            if processes().is_first:
                print(json.dumps(results))
        return 0
    except ThinkAheadError as exc:
        print(f"training.remote: {exc}", file=sys.stderr)
        return _BAD_INPUT


def prepare(run: Run, release: Path) -> None:
    """Write the catalog of `release` into the work folder, as if by quantizing, and item vectors.

    Only manifest and catalog are read, so the release may have another format. Raises
    InvalidRelease, or InvalidInput if its items differ from the data.
    """
    try:
        spec = json.loads((release / "manifest.json").read_text())["space"]
        space = SidSpace(tuple(spec["sizes"]), spec["prefix_depth"], spec["codebook"])
    except (OSError, KeyError, ValueError) as exc:
        raise InvalidRelease(f"{release}: no manifest with a SID space ({exc})") from exc
    catalog = load_catalog(release / "catalog.parquet", space)
    if unknown := sorted(set(run.dataset.items) ^ set(catalog.item_ids)):
        raise InvalidInput(f"{release}: {len(unknown)} items differ from the data, {unknown[0]!r}")
    run.work.mkdir(parents=True, exist_ok=True)
    catalog.save(run.work / "catalog.parquet")
    names = {"sizes": list(space.sizes), "prefix_depth": space.prefix_depth}
    run.finish("quantize", {"space": {**names, "codebook": space.codebook}})
    if "bootstrap" in run.recipe.reasoner.stages:
        run.item_vectors()
    logger.info("prepared %s: %d items of %s", run.work, len(catalog), release)


def check_before(run: Run) -> None:
    """Check data, base, a training step and a rollout, in about a minute; on a GPU, every stage.

    There, one step of each stage has the recipe's own sizes, and the peak of memory is printed.
    Otherwise an error would show only after hours. Raises InvalidInput or InvalidRelease.
    """
    if not run.is_done("quantize"):
        raise InvalidInput(f"{run.work}: not prepared for this data and recipe, run `prepare`")
    recipe, material = run.recipe, gather(run)
    catalog = material.catalog
    texts = base_texts(material)
    learner = new_learner(
        recipe.reasoner,
        recipe.nano,
        catalog.space,
        texts,
        seed=recipe.seed,
        hardware=recipe.hardware,
    )
    tasks = material.tasks(learner)
    rows = [row for row, _ in zip(tasks.preferences(), range(16), strict=False)]
    (batch, *_) = pack_rows(rows, length=recipe.integrate.pack_tokens, batch_tokens=1)
    loss = add_gradients(learner.model, batch, micro_tokens=0)
    most = recipe.reasoner.history + 1
    asked = [rows[-most:] for rows in material.histories if len(rows) > 1]
    _roll_out_twice(learner, catalog, asked[:2])
    if not isfinite(loss):
        raise InvalidInput(f"{run.work}: the loss of the first batch is {loss}")
    check_memory(StageSteps(learner, catalog, tasks, asked, recipe), logger.info)
    logger.info("checked: %s on %s, loss %.3f", recipe.reasoner.base, device_name(), loss)


def _roll_out_twice(learner: Learner, catalog: Catalog, histories: Sequence[Sequence[int]]) -> None:
    sampling = Sampling(max_tokens=4)
    model = plain_model(learner.model)
    reasoner = TransformersReasoner(model, learner.tokenizer, catalog.space, sampling)
    with precision(learner.model):
        roll_out(reasoner, catalog, histories, EnhanceRecipe(group=2, beams=2), [0, 1])


def train(run: Run) -> dict[str, Any]:
    """Run the remaining stages, check `work/reasoner`, write and return `results.json`.

    Of several processes, the first one checks and writes; the others return nothing.
    """
    if not run.is_done("reasoner"):
        made = reasoner_stage(run)
        if processes().is_first:
            run.finish("reasoner", made)
        processes().wait()
    if not processes().is_first:
        return {}
    results = {
        **run.outcome("reasoner"),
        "check": check_after(run, run.catalog()),
        "torch": torch.__version__,
        "data_sha256": run.data_digest,
        "recipe": run.recipe.to_json(),
    }
    (run.work / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def export_adapter(run: Run, out: Path) -> None:
    """Write the last learner as `out/reasoner`, a base with its token rows, and `out/adapter`.

    Raises InvalidInput for an unfinished run, or InvalidSettings for one without an adapter.
    """
    if not run.is_done("reasoner"):
        raise InvalidInput(f"{run.work}: no finished reasoner, expected `run` before `adapter`")
    learner = last_learner(gather(run))
    learner.export_apart(out / "reasoner", out / "adapter")


def check_after(run: Run, catalog: Catalog) -> dict[str, float]:
    """Load the exported model as the night does, and think about a few users.

    Raises InvalidRelease if an activated model closes no thought or finds no prefix.
    """
    directory = run.work / "reasoner"
    reasoner = TransformersReasoner.load(directory, catalog.space, **place()._asdict())
    rows = training_histories(catalog, run.split)[:_NUM_CHECKED]
    users = [UserHistory(f"{at}", tuple(history)) for at, history in enumerate(rows)]
    seeds = list(range(len(users)))
    thoughts = think_users(reasoner, catalog, users, paths=2, width=4, seeds=seeds)
    closed = np.mean([len(user.texts) / 2 for user in thoughts])
    prefixes = np.mean([len(user.prefixes) for user in thoughts])
    learnt_to_think = "activate" in run.recipe.reasoner.stages
    if learnt_to_think and not (closed and prefixes):
        raise InvalidRelease(f"{directory}: closed {closed} of its thoughts, {prefixes} prefixes")
    return {"closed_paths": round(float(closed), 4), "prefixes": round(float(prefixes), 2)}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.remote", description=__doc__)
    parser.add_argument("command", choices=["prepare", "run", "adapter"])
    parser.add_argument("--data", type=Path, required=True, help="data folder, or files of events")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and results")
    parser.add_argument("--config", type=Path, required=True, help="recipe (TOML)")
    parser.add_argument("--release", type=Path, help="with `prepare`: source of the SIDs")
    parser.add_argument("--out", type=Path, help="with `adapter`: folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-only", action="store_true", help="with `run`: train nothing")
    options = parser.parse_args(arguments)
    if options.command == "prepare" and options.release is None:
        parser.error("prepare needs --release")
    if options.command == "adapter" and options.out is None:
        parser.error("adapter needs --out")
    return options


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
