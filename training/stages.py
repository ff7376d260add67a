"""The stages of a training run, all in one work folder.

A stage that finished with the same data and recipe is not run again, so an interrupted run resumes.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.catalog.catalog import build_catalog
from models.online.shape import RecommenderConfig
from models.release.publish import Memory, publish
from models.release.release import Release
from training.model_card import model_card
from training.quantize import quantize
from training.reasoner_stages import reasoner_stage
from training.run import Run as Run
from training.split import training_histories
from training.train_online import new_recommender, train_online

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
    """Assign SIDs to items; writes `catalog.parquet` and `codebooks.safetensors`."""
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
    books = {f"level_{level}": torch.from_numpy(book) for level, book in enumerate(made.codebooks)}
    save_file(books, run.work / "codebooks.safetensors")
    num_prefixes = len(catalog.trie.prefixes())
    return {
        "space": {
            "sizes": list(made.space.sizes),
            "prefix_depth": made.space.prefix_depth,
            "codebook": made.space.codebook,
        },
        "items": len(catalog),
        "sids": len(catalog.trie),
        "prefixes": num_prefixes,
        "items_per_prefix": round(len(catalog) / num_prefixes, 2),
    }


def online_stage(run: Run) -> dict[str, Any]:
    """Train the online recommender; writes `online.safetensors`."""
    config = _recommender_config(run)
    recipe = replace(run.recipe.online, seed=run.recipe.seed)
    result = train_online(config, recipe, run.catalog(), run.split, run.recipe.memory)
    save_file(result.recommender.state_dict(), run.work / "online.safetensors")
    return {"parameters": _count(result.recommender), **result.metrics}


def publish_stage(run: Run, out: Path) -> Release:
    """Publish all parts as one verified release at `out`, named after its last path component."""
    metrics = {stage: run.outcome(stage) for stage in STAGES}
    recipe = {
        **run.recipe.to_json(),
        "data_sha256": run.data_digest,
        "torch": torch.__version__,
    }
    recommender = new_recommender(_recommender_config(run), run.catalog())
    recommender.load_state_dict(load_file(run.work / "online.safetensors"))
    histories = training_histories(run.catalog(), run.split)
    release = publish(
        out,
        name=out.name,
        catalog=run.catalog(),
        recommender=recommender,
        reasoner_dir=run.work / "reasoner",
        histories=histories,
        recipe=recipe,
        metrics=metrics,
        card=model_card(out.name, run.dataset, recipe, metrics),
        memory=Memory.counted(histories, run.catalog(), run.recipe.memory),
    )
    logger.info("published %s version %s at %s", release.name, release.version, out)
    return release


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "quantize": quantize_stage,
    "online": online_stage,
    "reasoner": reasoner_stage,
}


def _recommender_config(run: Run) -> RecommenderConfig:
    return run.recipe.recommender.to_config(run.outcome("quantize")["space"]["sizes"])


def _count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
