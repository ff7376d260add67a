"""Renew a release with a fresh online recommender, or with another reasoner over its SIDs.

SIDs stay, so the records of past nights stay valid and a service can reload the release without a
new night. Items that are new in the data get SIDs of their own; items that are gone leave. With the
old weights, the release is only published again, which updates an older format. The memory is
counted again.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.catalog.catalog import Catalog, load_catalog
from models.catalog.data_content import CONTENT, FILES, content_digest
from models.catalog.dataset import load_dataset
from models.catalog.trie import CatalogTrie
from models.errors import InvalidInput, InvalidRelease
from models.intake.data_folder import data_digest
from models.online.grown_recommender import grow_recommender
from models.online.memory.memory import Memory
from models.online.recommender import OnlineRecommender
from models.online.torch_runtime import load_recommender
from models.release.publish import publish
from models.release.release import Learns, Release
from training.catalog_changes import FollowedCatalog, TextVectors
from training.event_types import types_of
from training.learn_online import learn_online
from training.memory_choice import keep_choice
from training.model_card import model_card
from training.quantize import count_sids
from training.recipe import Recipe
from training.run import HELD_OUT
from training.split import split_dataset, training_histories
from training.train_online import OnlineResult

_OF_THE_MODEL = ("recommender", "online", "sasrec", "teacher")  # tables of the online recommender
_OF_THE_CATALOG = ("quantize", *_OF_THE_MODEL, "memory", "types")  # tables that the release decides


def renew(
    directory: Path,
    data: Path,
    recipe: Recipe,
    *,
    keep_weights: bool,
    teacher_dir: Callable[[Learns, Recipe], Path],
    reasoner_work: Path | None = None,
    learns: Learns | None = None,
    out: Path | None = None,
) -> Release:
    """Publish the release at `directory` again, from the interactions of `data`.

    Args:
        recipe: without weights of event types, those of the release hold.
        keep_weights: keep the online recommender.
        teacher_dir: folder of a teacher that has learnt a part, trained if there is none yet.
        reasoner_work: work folder of `training.remote` with the new reasoner.
        learns: part to learn (default: the part that the release has learnt). If it is not the
            held-out part, the online recommender is trained for as many epochs as the release had,
            and items are counted in that part too.
        out: where to publish (default: in place).

    Raises:
        InvalidRelease: that reasoner is unfinished or has other SIDs.
        InvalidInput: the release would hold a reasoner that has learnt more than `learns`.
    """
    release = Release.load(directory)
    recipe = replace(recipe, types=recipe.types or types_of(release))
    dataset = load_dataset(data)
    learns = learns or release.manifest.learnt
    if reasoner_work is None:
        _check_reasoner(release, learns)
    split = split_dataset(dataset, learns, recipe.types)
    followed = FollowedCatalog(release, dataset, recipe, TextVectors(dataset.items))
    catalog, same_items = followed.grown.catalog, followed.has_same_items
    described, metrics = dict(release.manifest.recipe), dict(release.manifest.metrics)
    if not same_items:
        metrics["quantize"] = metrics.get("quantize", {}) | count_sids(catalog)
    if not (keep_weights and same_items):
        catalog = catalog.with_popularity(split.popularity)
        metrics.pop(HELD_OUT, None)  # the table is of other models or items
    histories = training_histories(catalog, split)
    settings = keep_choice(recipe.memory, release.manifest.memory)
    similar = followed.similar(settings.num_similar)
    memory = Memory.counted(histories, similar, settings, split.weights)
    if keep_weights:
        recommender = load_recommender(release.directory, release.recommender_config)
        if not same_items:
            recommender = _grow(recommender, catalog)
        made = OnlineResult(recommender, metrics["online"])
    else:
        sha256 = data_digest(data)
        made = learn_online(
            recipe,
            catalog,
            split,
            memory,
            data_digest=sha256,
            learns=learns,
            teacher_dir=teacher_dir(learns, recipe),
            chosen=None if learns is Learns.HELD_OUT else metrics["online"],
        )
        tables = recipe.to_json()
        described |= {name: tables[name] for name in _OF_THE_MODEL}
        described |= {FILES: sha256, CONTENT: content_digest(dataset), "torch": torch.__version__}
        described.pop("updates", None)  # of a learner, on the weights that are replaced here
    reasoner_dir = release.reasoner_dir
    if reasoner_work is not None:
        results = _read_results(reasoner_work, release)
        reasoner_dir = reasoner_work / "reasoner"
        tables = results.pop("recipe").items()
        described |= {name: table for name, table in tables if name not in _OF_THE_CATALOG}
        metrics["reasoner"] = results
        metrics.pop(HELD_OUT, None)
        described["reasoner_learnt"] = Learns.HELD_OUT.value
    metrics["online"] = made.report()
    target = out or directory
    described["memory"] = settings.to_json()
    described |= {"types": recipe.types} if recipe.types else {}
    return publish(
        target,
        name=target.name,
        catalog=catalog,
        recommender=made.recommender,
        reasoner_dir=reasoner_dir,
        histories=histories,
        recipe=described,
        metrics=metrics,
        card=model_card(target.name, data, dataset, described, metrics, learns),
        learnt=learns,
        memory=memory,
        codebooks=followed.codebooks,
    )


def _check_reasoner(release: Release, learns: Learns) -> None:
    has_learnt = release.manifest.recipe.get("reasoner_learnt", Learns.HELD_OUT)
    if has_learnt == Learns.EVERYTHING and learns is not Learns.EVERYTHING:
        raise InvalidInput(
            f"{release.directory}: its reasoner has learnt everything, expected "
            f"--learns {Learns.EVERYTHING.value}"
        )


def _grow(recommender: OnlineRecommender, catalog: Catalog) -> OnlineRecommender:
    """Give every node a row, at first zero, if an item below it had an event."""
    known = CatalogTrie(catalog.space, catalog.sids[catalog.popularity > 0])
    return grow_recommender(recommender, known.packed[2:], trie=catalog.trie)


def _read_results(work: Path, release: Release) -> dict[str, Any]:
    """Read `results.json` of `training.remote`. Raises InvalidRelease for other SIDs."""
    try:
        results: dict[str, Any] = json.loads((work / "results.json").read_text())
        made = load_catalog(work / "catalog.parquet", release.space)
    except (OSError, ValueError, InvalidInput) as exc:
        raise InvalidRelease(f"{work}: no finished reasoner ({exc})") from exc
    same_items = made.item_ids == release.catalog.item_ids
    if not same_items or not np.array_equal(made.sids, release.catalog.sids):
        raise InvalidRelease(f"{work}: trained with SIDs that differ from {release.name}")
    return results
