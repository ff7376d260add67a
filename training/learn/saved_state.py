"""The state of a learner on disk: folders by the number of learnt slices, each whole or not there.

    WORK/states/00000012/   catalog.parquet, state.safetensors, state.json

A restored learner goes on bit for bit. Histories are not in it: they follow from the log.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from models.catalog.catalog import load_catalog
from models.durable import sync_file, sync_folder
from models.online.memory.live_counts import LiveCounts
from models.online.memory.neighbours import Neighbours
from models.online.recommender import KnownNodes
from training.learn.candidate import Candidate, anchor_knowing
from training.learn.online_learner import OnlineLearner
from training.learn.weight_learner import Pool, WeightLearner

_KEPT = 2  # states
Arrays = dict[str, NDArray[Any]]


class SavedStates:
    """The states of one learner."""

    def __init__(self, folder: Path, *, of: str) -> None:
        """of: digest of release, data and settings; states of others are ignored."""
        self._folder, self._of = folder, of

    def save(self, learner: OnlineLearner, counted: Arrays, *, fed: int) -> None:
        """Write the state behind the last slice.

        Args:
            counted: of `counted_arrays`, taken before the first event behind that slice.
            fed: batches of the item feed that the learner has applied.
        """
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        learner.catalog.save(draft / "catalog.parquet")
        save_file(counted | _weight_arrays(learner.weights), draft / "state.safetensors")
        facts = {
            "of": self._of,
            "fed": fed,
            "num_slices": learner.num_slices,
            "position": learner.position,
            "is_waiting": learner.weights.is_waiting,
            "pool": vars(learner.weights.pool),
        }
        (draft / "state.json").write_text(json.dumps(facts))
        for file in draft.iterdir():
            sync_file(file)
        target = self._folder / f"{learner.num_slices:08d}"
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        sync_folder(self._folder)
        for older in self._states()[:-_KEPT]:
            shutil.rmtree(older)

    def restore(self, learner: OnlineLearner) -> int | None:
        """Bring a learner that has just begun to the newest state; return the applied batches.

        None without a state of this learner.
        """
        for state in self._states()[::-1]:
            facts = json.loads((state / "state.json").read_text())
            if facts["of"] == self._of:
                _restore(learner, state, facts)
                return int(facts["fed"])
        return None

    def _states(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]" * 8))


def counted_arrays(learner: OnlineLearner) -> Arrays:
    """Copy all that counting changes."""
    arrays: Arrays = {f"counts/{name}": value for name, value in learner.counts.arrays().items()}
    for name in ("first", "neighbour_P", "weight_P"):
        arrays[f"neighbours/{name}"] = getattr(learner.neighbours, name)
    item_ids = learner.catalog.item_ids
    arrays["popularity"] = np.array([learner.popularity[item] for item in item_ids])
    arrays["fed_rows"] = np.array(sorted(learner.fed_rows), dtype=np.int64)
    return arrays


def _weight_arrays(weights: WeightLearner) -> Arrays:
    arrays: Arrays = {}
    for version in ("accepted", "candidate"):
        tensors = getattr(weights, version).tensors()
        arrays |= {f"{version}/{name}": value.numpy() for name, value in tensors.items()}
    for at, nodes in enumerate(weights.candidate.recommender.node_embeddings):
        arrays[f"known/{at}"] = cast("KnownNodes", nodes).known[:-1].numpy()
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def _restore(learner: OnlineLearner, state: Path, facts: dict[str, Any]) -> None:
    arrays = load_file(state / "state.safetensors")
    weights = learner.weights
    learner.catalog = load_catalog(state / "catalog.parquet", learner.catalog.space)
    num_tables = len(weights.anchor.recommender.node_embeddings)
    known = [arrays[f"known/{at}"] for at in range(num_tables)]
    weights.anchor = anchor_knowing(weights.anchor.recommender, known)
    learner.counts = LiveCounts.from_arrays(_below(arrays, "counts"), learner.counts.settings)
    learner.neighbours = Neighbours(learner.counts.settings, **_below(arrays, "neighbours"))
    for version in ("accepted", "candidate"):
        made = Candidate.new(weights.anchor, weights.settings.rates)
        made.restore(_tensors(_below(arrays, version)))
        setattr(weights, version, made)
    counted = zip(learner.catalog.item_ids, arrays["popularity"].tolist(), strict=True)
    learner.popularity.clear()
    learner.popularity.update(dict(counted))
    learner.fed_rows = set(arrays["fed_rows"].tolist())
    learner.num_slices, learner.position = facts["num_slices"], facts["position"]
    weights.is_waiting, weights.pool = facts["is_waiting"], Pool(**facts["pool"])


def _below(arrays: Arrays, part: str) -> Arrays:
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
