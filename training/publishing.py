"""Publishes the models of a round as one release: with card, memory and the held-out table."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from models.catalog.data_content import CONTENT, FILES, content_digest
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.release.publish import publish
from models.release.release import Release
from training.held_out_table import Table
from training.model_card import model_card
from training.run import HELD_OUT, PARTS, Run
from training.split import training_histories
from training.train_online import new_recommender

logger = logging.getLogger(__name__)


def publish_run(
    run: Run, out: Path, *, name: str, table: Table, forced: Sequence[str] = ()
) -> Release:
    """Publish all parts of a round as one verified release at `out`.

    Args:
        table: the held-out table, of the first round's models.
        forced: shortfalls despite which the release is published.
    """
    metrics = {stage: run.outcome(stage) for stage in PARTS}
    if run.first is not None:
        metrics["reasoner"]["validation"] = run.first.outcome("reasoner")["validation"]
    metrics[HELD_OUT] = {**table, "forced": list(forced)}
    memory = run.memory()
    recipe = {
        **run.recipe.to_json(),
        "memory": memory.settings.to_json(),
        FILES: run.data_digest,
        CONTENT: content_digest(run.dataset),
        "torch": torch.__version__,
        "reasoner_learnt": run.learns.value,
    }
    histories = training_histories(run.catalog(), run.split)
    release = publish(
        out,
        name=name,
        catalog=run.catalog(),
        recommender=load_online(run),
        reasoner_dir=run.work / "reasoner",
        histories=histories,
        recipe=recipe,
        metrics=metrics,
        card=model_card(name, run.data, run.dataset, recipe, metrics, run.learns),
        learnt=run.learns,
        memory=memory,
        codebooks=run.codebooks(),
    )
    logger.info("published %s version %s at %s", release.name, release.version, out)
    return release


def load_online(run: Run) -> OnlineRecommender:
    """Load the online recommender of a finished stage."""
    recommender = new_recommender(recommender_config(run), run.catalog())
    recommender.load_state_dict(load_file(run.work / "online.safetensors"))
    return recommender.eval()


def recommender_config(run: Run) -> RecommenderConfig:
    """Return the shape of the online recommender over the codebooks of a quantized run."""
    return run.recipe.recommender.to_config(run.outcome("quantize")["space"]["sizes"])
