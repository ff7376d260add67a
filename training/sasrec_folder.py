"""A trained SASRec in a folder: weights, figures and card.

It is a row of the benchmarks, and the teacher of an online recommender that learns the same part of
the same histories.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from models.baselines.sasrec import SasRec, load_sasrec, save_sasrec
from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.release.release import Learns, Release
from training.checkpoint import Checkpoint
from training.event_types import TypeWeights
from training.model_card import sasrec_card
from training.recipe import Recipe
from training.run import Run
from training.sasrec_facts import FACTS, read_facts
from training.split import Split, split_dataset
from training.train_sasrec import train_sasrec

logger = logging.getLogger(__name__)
_WEIGHTS = "model.safetensors"


def sasrec_stage(
    run: Run,
    release_dir: Path,
    out: Path,
    *,
    learns: Learns = Learns.HELD_OUT,
    chosen: Path | None = None,
) -> None:
    """Train on the catalog rows of a release, and write the folder `out`.

    Args:
        learns: part of each history.
        chosen: folder of a held-out SASRec, for its number of epochs; None chooses it.
    """
    catalog = Release.load(release_dir).catalog
    make_sasrec(
        out,
        run.recipe,
        catalog,
        split_dataset(run.dataset, learns, run.recipe.types),
        data_digest=run.data_digest,
        learns=learns,
        chosen=read_facts(chosen) if chosen else None,
    )


def make_sasrec(
    folder: Path,
    recipe: Recipe,
    catalog: Catalog,
    split: Split,
    *,
    data_digest: str,
    learns: Learns,
    chosen: Mapping[str, float] | None = None,
) -> tuple[SasRec, dict[str, Any]]:
    """Train a SASRec and write it to a folder; return it with its facts.

    chosen: facts of an earlier training; train for as many epochs, without validation.
    """
    settings = replace(recipe.online, seed=recipe.seed)
    figures = chosen and {name: chosen[name] for name in ("recall@10", "ndcg@10", "epoch")}
    inputs = {
        "learnt": learns.value,
        "data_sha256": data_digest,
        "torch": torch.__version__,
        "recipe": asdict(recipe.sasrec) | {"fit": asdict(settings)},
        **({"types": recipe.types} if recipe.types else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    of = json.dumps([inputs, figures, sha256("\n".join(catalog.item_ids).encode()).hexdigest()])
    checkpoint = Checkpoint(folder / "model.checkpoint", of)
    model, metrics = train_sasrec(
        recipe.sasrec,
        settings,
        catalog,
        split,
        window=recipe.recommender.window,
        chosen=figures,
        checkpoint=checkpoint,
    )
    facts = {
        **metrics,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **inputs,
    }
    save_sasrec(model, folder / _WEIGHTS, catalog.item_ids)
    (folder / "README.md").write_text(sasrec_card(facts))
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")  # last: it marks the end
    checkpoint.remove()
    logger.info("sasrec: wrote %s, made %s", folder, json.dumps(facts))
    return model, facts


def read_sasrec(
    folder: Path, catalog: Catalog, *, data_digest: str, learns: Learns, types: TypeWeights
) -> tuple[SasRec, dict[str, Any]]:
    """Read a SASRec of this data and this part of it, with its facts.

    Raises InvalidInput for one of other data, another part or other weights of event types,
    ReleaseMismatch for other items.
    """
    facts = {"types": {}} | read_facts(folder)
    for name, expected in (
        ("data_sha256", data_digest),
        ("learnt", learns.value),
        ("types", types),
    ):
        if facts.get(name) != expected:
            raise InvalidInput(
                f"{folder / FACTS}: {name} {facts.get(name)!r}, expected {expected!r}"
            )
    return load_sasrec(folder / _WEIGHTS, catalog.item_ids), facts
