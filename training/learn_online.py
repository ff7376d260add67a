"""Train the online recommender of a release: first its teacher, then itself."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.online.memory.memory import Memory
from models.release.release import Learns
from training.checkpoint import Checkpoint
from training.recipe import Recipe
from training.run import Run
from training.sasrec_facts import is_made
from training.sasrec_folder import make_sasrec, read_sasrec
from training.split import Split
from training.train_online import OnlineResult, Teacher, train_online

_OF_TEACHER = "teacher_"


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
    return result.report()


def learn_online(
    recipe: Recipe,
    catalog: Catalog,
    split: Split,
    memory: Memory,
    *,
    data_digest: str,
    learns: Learns,
    teacher_dir: Path,
    chosen: Mapping[str, float] | None = None,
    checkpoint: Checkpoint | None = None,
) -> OnlineResult:
    """Train by a recipe; the metrics have those of the teacher too, as `teacher_...`.

    Args:
        memory: of the histories of the split.
        learns: part of each history that the split has.
        teacher_dir: folder of the teacher; trained into it if it holds none yet.
        chosen: metrics of an earlier training; train for as many epochs, without validation.
        checkpoint: of the recommender, not of its teacher, which has its own.
    """
    config = recipe.recommender.to_config(catalog.space.sizes)
    settings = replace(recipe.online, seed=recipe.seed)
    if not recipe.teacher.share:
        return train_online(
            config, settings, catalog, split, memory, chosen=chosen, checkpoint=checkpoint
        )
    if is_made(teacher_dir):
        model, facts = read_sasrec(
            teacher_dir, catalog, data_digest=data_digest, learns=learns, types=recipe.types
        )
    else:
        model, facts = make_sasrec(
            teacher_dir,
            recipe,
            catalog,
            split,
            data_digest=data_digest,
            learns=learns,
            chosen=chosen and _of_teacher(chosen),
        )
    if model.config.window < config.window:
        raise InvalidInput(
            f"{teacher_dir}: this teacher reads {model.config.window} items of a history, "
            f"expected {config.window} as the online model"
        )
    teacher = Teacher(model, recipe.teacher)
    made = train_online(
        config,
        settings,
        catalog,
        split,
        memory,
        teacher=teacher,
        chosen=chosen,
        checkpoint=checkpoint,
    )
    figures = {_OF_TEACHER + name: facts[name] for name in ("recall@10", "ndcg@10", "epoch")}
    return OnlineResult(made.recommender, made.metrics | figures)


def _of_teacher(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the teacher's figures among the metrics of an online recommender."""
    prefix = _OF_TEACHER
    return {name.removeprefix(prefix): metrics[name] for name in metrics if name.startswith(prefix)}
