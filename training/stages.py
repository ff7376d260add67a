"""The stages of a training run, all in one work folder.

A stage that finished with the same data and recipe is not run again, so an interrupted run resumes.
The first round learns all but the held-out items, chooses epochs and is judged. The second round
trains both models once more, on everything, in a folder inside the first one's.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from models.catalog.catalog import build_catalog
from training.checkpoint import Checkpoint
from training.judging import judge
from training.learn_online import learn_online
from training.publishing import publish_run
from training.quantize import count_sids, quantize
from training.reasoner_stages import reasoner_stage
from training.run import HELD_OUT
from training.run import Run as Run

logger = logging.getLogger(__name__)


def run_stage(run: Run, stage: str) -> None:
    """Run one of STAGES, unless it is already done, and log its report."""
    run.work.mkdir(parents=True, exist_ok=True)
    if run.is_done(stage):
        logger.info("%s: already done with this data and recipe", stage)
        return
    started = time.monotonic()
    made = STAGES[stage](run)
    run.finish(stage, made)
    logger.info("%s: %.0f s, made %s", stage, time.monotonic() - started, json.dumps(made))


def quantize_stage(run: Run) -> dict[str, Any]:
    """Assign SIDs to items; writes `catalog.parquet`."""
    recipe, items = run.recipe.quantize, run.dataset.items
    made = quantize(
        run.item_vectors(),
        sizes=recipe.sizes,
        prefix_depth=recipe.prefix_depth,
        seed=run.recipe.seed,
    )
    sids = {item: tuple(sid) for item, sid in zip(items, made.sids.tolist(), strict=True)}
    catalog = build_catalog(made.space, sids, items, run.split.popularity)
    catalog.save(run.work / "catalog.parquet")
    return {
        "space": {
            "sizes": list(made.space.sizes),
            "prefix_depth": made.space.prefix_depth,
            "codebook": made.space.codebook,
        },
        **count_sids(catalog),
    }


def online_stage(run: Run) -> dict[str, Any]:
    """Train the online recommender; writes `online.safetensors`."""
    checkpoint = Checkpoint(run.work / "online.checkpoint", run.inputs("online"))
    result = learn_online(
        run.recipe,
        run.catalog(),
        run.split,
        run.memory(),
        data_digest=run.data_digest,
        learns=run.learns,
        teacher_dir=run.teacher_dir(run.learns),
        chosen=run.chosen,
        checkpoint=checkpoint,
    )
    save_file(result.recommender.state_dict(), run.work / "online.safetensors")
    checkpoint.remove()
    return {**result.metrics, "parameters": _count(result.recommender)}


def held_out_stage(run: Run) -> dict[str, Any]:
    """Judge the models of the first round on the test items, and publish them in the work folder.

    Returns the held-out table. `bench quality` runs on the release `work/held-out`.
    """
    table = judge(run)
    name = f"{run.work.name.removesuffix('.work')}-held-out"
    publish_run(run, run.work / "held-out", name=name, table=table)
    return table


def open_second(run: Run) -> Run:
    """Return the second round, with the SIDs of the first one and popularity of everything."""
    second = run.second()
    second.work.mkdir(parents=True, exist_ok=True)
    catalog = run.catalog().with_popularity(second.split.popularity)
    catalog.save(second.work / "catalog.parquet")
    run.item_vectors()  # makes their file if somebody has deleted it
    shutil.copyfile(run.vectors_file, second.vectors_file)
    second.finish("quantize", run.outcome("quantize"))
    return second


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "quantize": quantize_stage,
    "online": online_stage,
    "reasoner": reasoner_stage,
    HELD_OUT: held_out_stage,
}


def _count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
