"""Publish a release: write its parts, measure its precisions, take its digests."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from models.catalog.catalog import Catalog, popular_items, popular_prefixes
from models.catalog.codebooks import Codebooks
from models.durable import link_or_copy, open_to_readers
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher, Scored, Searcher
from models.online.history_cache import window_start
from models.online.memory.memory import Memory
from models.online.memory.neighbours import Neighbours
from models.online.native_runtime import NativeRuntime
from models.online.onnx_graph import write_graph
from models.online.onnx_runtime import OnnxRuntime, Runtime
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import DTYPES, TorchRuntime, copy_recommender
from models.release.release import (
    CODEBOOKS,
    FORMAT,
    NEIGHBOURS,
    ONLINE,
    Learns,
    Precision,
    Release,
    ReleaseManifest,
    SpaceSpec,
)
from models.release.release_files import digest

NUM_GLOBAL_PREFIXES = 100
NUM_POPULAR = 200
NUM_VALIDATED_USERS = 1000
_TOP = 10


def publish(
    directory: Path,
    *,
    name: str,
    catalog: Catalog,
    recommender: OnlineRecommender,
    reasoner_dir: Path,
    histories: Sequence[Sequence[int]],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
    learnt: Learns = Learns.HELD_OUT,
    memory: Memory | None = None,
    codebooks: Codebooks | None = None,
) -> Release:
    """Write a release beside `directory`, swap it in by renaming, and return it verified.

    Args:
        histories: catalog rows of real users (training split), on which the precisions are
            measured.
        learnt: part of each history that the models have learnt.
        memory: None for a release whose scores are the online model's alone.
        codebooks: of the SIDs; None for a release whose catalog will not grow.
    """
    space = catalog.space
    draft = directory.with_name(directory.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    catalog.save(draft / "catalog.parquet")
    weights = {key: value.contiguous() for key, value in recommender.state_dict().items()}
    save_file(weights, draft / ONLINE)
    write_graph(draft, recommender.config)
    neighbours = None
    if memory is not None:
        memory.write(draft / NEIGHBOURS)
        neighbours = memory.neighbours()
    if codebooks is not None:
        codebooks.write(draft / CODEBOOKS)
    shutil.copytree(reasoner_dir, draft / "reasoner")
    (draft / "README.md").write_text(card)
    manifest = ReleaseManifest(
        format=FORMAT,
        name=name,
        space=SpaceSpec(
            sizes=space.sizes,
            prefix_depth=space.prefix_depth,
            codebook=space.codebook,
            fingerprint=f"{space.fingerprint:016x}",
        ),
        recommender=recommender.config.to_json(),
        memory=memory.settings if memory is not None else None,
        precisions=judge_precisions(draft, recommender, catalog, histories, neighbours),
        global_prefixes=popular_prefixes(catalog, NUM_GLOBAL_PREFIXES),
        popular=popular_items(catalog, NUM_POPULAR),
        recipe=dict(recipe),
        metrics=dict(metrics),
        files={str(file.relative_to(draft)): digest(file) for file in _files(draft)},
        learnt=learnt,
    )
    _write_manifest(draft, manifest)
    open_to_readers(draft)
    Release.load(draft)
    shutil.rmtree(directory, ignore_errors=True)
    draft.replace(directory)
    return Release.load(directory)


def write_grown_release(
    directory: Path,
    parent: Release,
    catalog: Catalog,
    config: RecommenderConfig,
    weights: Mapping[str, NDArray[Any]],
    memory: Memory,
    *,
    updates: Mapping[str, Any],
    popularity: Mapping[str, float],
) -> None:
    """Write a release with another catalog, weights and memory than its parent's.

    Other files are linked. The precisions are the parent's. The caller verifies the release.

    Args:
        updates: facts about the learning, for the recipe.
        popularity: events by item, by their weights, for the popular items and prefixes.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in parent.manifest.files:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(parent.directory / name, target)
    changed = ("catalog.parquet", ONLINE, NEIGHBOURS, "extend.onnx")
    for name in changed:
        (directory / name).unlink(missing_ok=True)
    catalog.save(directory / "catalog.parquet")
    arrays = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    save_arrays(arrays, directory / ONLINE)
    memory.write(directory / NEIGHBOURS)
    write_graph(directory, config)
    files = dict(parent.manifest.files) | {name: digest(directory / name) for name in changed}
    counted = catalog.with_popularity(popularity)
    manifest = parent.manifest.model_copy(
        update={
            "recommender": config.to_json(),
            "memory": memory.settings,
            "files": files,
            "recipe": {**parent.manifest.recipe, "updates": dict(updates)},
            "global_prefixes": popular_prefixes(counted, NUM_GLOBAL_PREFIXES),
            "popular": popular_items(counted, NUM_POPULAR),
        }
    )
    _write_manifest(directory, manifest)
    open_to_readers(directory)


def _write_manifest(directory: Path, manifest: ReleaseManifest) -> None:
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    (directory / "manifest.json").write_text(text + "\n")


def judge_precisions(
    directory: Path,
    recommender: OnlineRecommender,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    neighbours: Neighbours | None = None,
) -> dict[str, Precision]:
    """Compare every runtime with float64 on the first NUM_VALIDATED_USERS histories.

    Each runtime finishes the 100 prefixes that float64 ranks first, excluding the history.
    """
    finishers = {
        searcher.precision: Finisher(searcher, catalog, neighbours)
        for searcher in _searchers(directory, recommender)
    }
    reference = TorchRuntime(copy_recommender(recommender, torch.float64))
    exact = Finisher(NumpySearch(reference), catalog, neighbours)
    overlaps: dict[str, list[float]] = {precision: [] for precision in finishers}
    worst = dict.fromkeys(finishers, 0.0)
    chosen = histories[:NUM_VALIDATED_USERS]
    for history in chosen:
        recent = history[window_start(len(history), recommender.config.window) :]
        state = exact.encode(recent)
        prefixes = exact.own_prefixes(state, count=NUM_GLOBAL_PREFIXES)
        truth = _logprobs(exact.finish(state, prefixes, k=_TOP, exclude=recent))
        for precision, finisher in finishers.items():
            own_state = finisher.encode(recent)
            found = _logprobs(finisher.finish(own_state, prefixes, k=_TOP, exclude=recent))
            shared = truth.keys() & found.keys()
            overlaps[precision].append(len(shared) / max(len(truth), 1))
            worst[precision] = max(
                worst[precision], *(abs(truth[row] - found[row]) for row in shared), 0.0
            )
    return {
        precision: Precision(
            overlap=round(float(np.mean(values)), 5) if values else 1.0,
            max_abs_difference=float(f"{worst[precision]:.2g}"),
            users=len(chosen),
        )
        for precision, values in overlaps.items()
    }


def _logprobs(found: Sequence[Scored]) -> dict[int, float]:
    return {item.row: item.logprob for item in found}


def _searchers(directory: Path, recommender: OnlineRecommender) -> list[Searcher]:
    """Build every searcher that may serve; native only if this machine has a kernel."""
    weights = {key: value.numpy() for key, value in recommender.state_dict().items()}
    runtimes: list[Runtime] = [OnnxRuntime(directory, recommender.config, weights)]
    runtimes += [TorchRuntime(copy_recommender(recommender, dtype)) for dtype in DTYPES.values()]
    searchers: list[Searcher] = [NumpySearch(runtime) for runtime in runtimes]
    if built_library() is not None:
        searchers.append(NativeRuntime(recommender.config, weights))
    return searchers


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())
