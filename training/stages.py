"""The stages of a training run, each reading and writing one work folder.

A stage that finished with the same data and recipe is not run again, so an interrupted run resumes.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models import prompts
from models.catalog import Catalog, build_catalog, load_catalog
from models.dataset import Dataset, load_dataset
from models.publish import publish
from models.reasoner import Sampling, TransformersReasoner
from models.release import Release
from models.shape import RecommenderConfig
from models.sid import SidSpace
from training.activate import activate
from training.align import align
from training.card import model_card
from training.data import Split, data_digest, sample_users, split_dataset
from training.nano import build_tokenizer, new_reasoner
from training.online import new_recommender, train_online, training_histories
from training.probe import probe
from training.quantize import embed_items, quantize
from training.recipe import Recipe
from training.tasks import Tasks

logger = logging.getLogger(__name__)
_NUM_PROBED_USERS = 200
_TABLES = {
    "quantize": ("quantize",),
    "online": ("quantize", "recommender", "online"),
    "reasoner": ("quantize", "nano", "align", "activate"),
}


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: where its data, its work and its recipe are."""

    data: Path
    work: Path
    recipe: Recipe

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.data)

    @cached_property
    def split(self) -> Split:
        return split_dataset(self.dataset)

    @cached_property
    def data_digest(self) -> str:
        return data_digest(self.data)

    def catalog(self) -> Catalog:
        spec = self.outcome("quantize")["space"]
        space = SidSpace(tuple(spec["sizes"]), spec["prefix_depth"], spec["codebook"])
        return load_catalog(self.work / "catalog.parquet", space)

    def outcome(self, stage: str) -> dict[str, Any]:
        """What a finished stage reported."""
        values: dict[str, Any] = json.loads((self.work / f"{stage}.json").read_text())["made"]
        return values

    def is_done(self, stage: str) -> bool:
        file = self.work / f"{stage}.json"
        return file.is_file() and json.loads(file.read_text())["inputs"] == self._inputs(stage)

    def finish(self, stage: str, made: dict[str, Any]) -> None:
        text = json.dumps({"inputs": self._inputs(stage), "made": made}, indent=1)
        draft = self.work / f"{stage}.json.draft"
        draft.write_text(text)
        draft.replace(self.work / f"{stage}.json")

    def _inputs(self, stage: str) -> str:
        """What a stage's result depends on, so that a change of another stage does not redo it."""
        return f"{self.data_digest} {self.recipe.digest(_TABLES[stage])}"


def run_stage(run: Run, stage: str) -> None:
    """Run one of STAGES unless it is done already; says what it made."""
    run.work.mkdir(parents=True, exist_ok=True)
    if run.is_done(stage):
        logger.info("%s: already done with this data and recipe", stage)
        return
    started = time.monotonic()
    made = STAGES[stage](run)
    run.finish(stage, made)
    logger.info("%s: %.0f s, made %s", stage, time.monotonic() - started, json.dumps(made))


def quantize_stage(run: Run) -> dict[str, Any]:
    """Items to SIDs: `catalog.parquet`, `codebooks.safetensors`."""
    recipe, items = run.recipe.quantize, run.dataset.items
    vectors = embed_items(items, run.split, text_weight=recipe.text_weight, seed=run.recipe.seed)
    made = quantize(
        vectors, sizes=recipe.sizes, prefix_depth=recipe.prefix_depth, seed=run.recipe.seed
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
    """The online recommender: `online.safetensors`."""
    config = _recommender_config(run)
    recipe = replace(run.recipe.online, seed=run.recipe.seed)
    result = train_online(config, recipe, run.catalog(), run.split)
    save_file(result.recommender.state_dict(), run.work / "online.safetensors")
    return {"parameters": _count(result.recommender), **result.metrics}


def reasoner_stage(run: Run) -> dict[str, Any]:
    """Tokenizer, alignment and activation of the reasoner: `reasoner/`."""
    recipe, catalog = run.recipe, run.catalog()
    histories = training_histories(catalog, run.split)
    texts = [prompts.caption(catalog, row) for row in range(len(catalog))]
    texts += [
        prompts.rationale_text(prompts.category_rationale(catalog, history, history[-1]))
        for history in histories
    ]
    tokenizer = build_tokenizer(texts, catalog.space, recipe.nano.text_tokens)
    torch.manual_seed(recipe.seed)
    model = new_reasoner(recipe.nano, tokenizer)
    tasks = Tasks(catalog, histories, tokenizer, recipe.seed)
    aligned = align(model, tasks, replace(recipe.align, seed=recipe.seed))
    activated = activate(model, tasks, replace(recipe.activate, seed=recipe.seed))
    directory = run.work / "reasoner"
    shutil.rmtree(directory, ignore_errors=True)
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    reasoner = TransformersReasoner.load(directory, catalog.space, sampling=Sampling())
    users = sample_users(run.split, _NUM_PROBED_USERS, recipe.seed)
    seen = probe(reasoner, catalog, users, seed=recipe.seed)
    return {
        "parameters": _count(model),
        "align": aligned,
        "activate": activated,
        "validation": seen._asdict(),
    }


def publish_stage(run: Run, out: Path) -> Release:
    """All parts into one verified release at `out`, named after its last path component."""
    metrics = {stage: run.outcome(stage) for stage in STAGES}
    recipe = {
        **run.recipe.to_json(),
        "data_sha256": run.data_digest,
        "torch": torch.__version__,
    }
    recommender = new_recommender(_recommender_config(run), run.catalog())
    recommender.load_state_dict(load_file(run.work / "online.safetensors"))
    release = publish(
        out,
        name=out.name,
        catalog=run.catalog(),
        recommender=recommender,
        reasoner_dir=run.work / "reasoner",
        histories=training_histories(run.catalog(), run.split),
        recipe=recipe,
        metrics=metrics,
        card=model_card(out.name, run.dataset, recipe, metrics),
    )
    logger.info("published %s version %s at %s", release.name, release.version, out)
    return release


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "quantize": quantize_stage,
    "online": online_stage,
    "reasoner": reasoner_stage,
}


def _recommender_config(run: Run) -> RecommenderConfig:
    sizes = tuple(run.outcome("quantize")["space"]["sizes"])
    return RecommenderConfig(sizes=sizes, **asdict(run.recipe.recommender))


def _count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
