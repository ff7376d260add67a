"""One training run: its data, its recipe, its work folder, and its finished stages."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.catalog.catalog import Catalog, load_catalog
from models.catalog.codebooks import Codebooks
from models.catalog.dataset import Dataset, load_dataset
from models.catalog.sid import SidSpace
from models.intake.data_folder import data_digest
from models.intake.users_table import Attributes, load_users
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.similar_items import SimilarItems
from models.release.release import Learns
from training.item_text import embed_texts
from training.memory_choice import choose_memory
from training.recipe import Recipe
from training.recipe_choice import Size, choose_recipe
from training.split import Split, sample_users, split_dataset, training_histories

_MEMORY = "memory"  # its settings, chosen before the online model is trained
_TABLES = {
    "quantize": ("quantize", "types"),
    _MEMORY: ("quantize", "memory", "types"),
    "online": ("quantize", "recommender", "online", "sasrec", "teacher", "memory", "types"),
}
_USUAL_WINDOW = 50  # folders of teachers that read another number of items name it
_OF_TEACHER = ("quantize", "online", "sasrec", "types")
PARTS = ("quantize", "online", "reasoner")  # stages whose results a release holds
HELD_OUT = "held_out"  # stage that judges the models of the first round
_REASONER_TABLES = {
    "align": ("align",),
    "warmup": ("warmup",),
    "integrate": ("integrate", "mixture"),
    "corpus": ("corpus",),
    "perceive": ("perceive", "perception", "thoughts"),
    "bootstrap": ("bootstrap",),
    "select": ("select", "thoughts"),
    "activate": ("activate", "thoughts"),
    "enhance": ("enhance",),
    "unify": ("unify", "enhance", "thoughts"),
}


@dataclass(frozen=True, eq=False)
class Run:
    """One training run."""

    data: Path  # data folder
    work: Path  # work folder
    recipe: Recipe
    first: "Run | None" = None  # first round, which chose SIDs and epochs; None in it

    @classmethod
    def open(cls, data: Path, work: Path, config: str, *, seed: int) -> "Run":
        """Choose the recipe by `config`: `auto` and `fast` choose by the size of the data.

        Raises InvalidDataset for a folder that is no data set, InvalidSettings for no recipe.
        """
        dataset = load_dataset(data)
        size = Size.of(split_dataset(dataset), len(dataset.items))
        run = cls(data, work, choose_recipe(config, size, seed=seed))
        vars(run)["dataset"] = dataset  # read once
        return run

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.data)

    @property
    def size(self) -> Size:
        return Size.of(self.split, len(self.dataset.items))

    @cached_property
    def split(self) -> Split:
        return split_dataset(self.dataset, self.learns, self.recipe.types)

    @property
    def learns(self) -> Learns:
        """Return the part of each history that this round learns."""
        return Learns.HELD_OUT if self.first is None else Learns.EVERYTHING

    def second(self) -> "Run":
        """Return the second round, which learns everything; the first must have its models."""
        run = Run(self.data, self.work / "everything", self.recipe, self)
        vars(run).update(dataset=self.dataset, data_digest=self.data_digest)  # read once
        return run

    @property
    def chosen(self) -> dict[str, Any] | None:
        """Return the figures of the epoch that the first round chose; None in that round."""
        return None if self.first is None else self.first.outcome("online")

    @cached_property
    def users(self) -> dict[str, Attributes]:
        """Return the attributes of users that the reasoner learns; empty without any."""
        return load_users(self.data)

    @cached_property
    def data_digest(self) -> str:
        return data_digest(self.data)

    def catalog(self) -> Catalog:
        spec = self.outcome("quantize")["space"]
        space = SidSpace(tuple(spec["sizes"]), spec["prefix_depth"], spec["codebook"])
        catalog = load_catalog(self.work / "catalog.parquet", space)
        return catalog.described(self.dataset.items)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the item vectors (N, E) in the order of the data set; computed once per recipe."""
        file = self.vectors_file
        if not file.is_file():
            # Imported here: the reasoner's stages run without scikit-learn and sentence models.
            from training.quantize import embed_items

            weight, seed = self.recipe.quantize.text_weight, self.recipe.seed
            vectors = embed_items(
                list(self.dataset.items),
                self.text_vectors(),
                self.split,
                text_weight=weight,
                seed=seed,
            )
            save_file({"vectors": vectors}, file)
        return load_file(file)["vectors"]

    @property
    def vectors_file(self) -> Path:
        return self.work / f"item_vectors_{self.key('quantize')}.safetensors"

    def text_vectors(self) -> NDArray[np.float32]:
        """Return the text vectors (N, E) in the order of the data set; computed once per data."""
        if self.first is not None:
            return self.first.text_vectors()
        file = self.work / f"text_vectors_{self.data_digest[:8]}.safetensors"
        if not file.is_file():
            save_file({"vectors": embed_texts(self.dataset.items)}, file)
        return load_file(file)["vectors"]

    def codebooks(self) -> Codebooks:
        """Return the codebooks of the catalog's SIDs."""
        catalog = self.catalog()
        vectors_NE = self.item_vectors()[self._places(catalog)]
        return Codebooks.of_items(vectors_NE, catalog.sids, catalog.space.sizes)

    def memory(self) -> Memory:
        """Count the training histories, and find the items with similar texts."""
        catalog = self.catalog()
        vectors_NE = self.text_vectors()[self._places(catalog)]
        similar = SimilarItems.of(vectors_NE, self.recipe.memory.num_similar)
        histories = training_histories(catalog, self.split)
        counted = Memory.counted(histories, similar, self.recipe.memory, self.split.weights)
        return Memory(counted.counts, similar, self._memory_settings(counted, catalog))

    def _memory_settings(self, counted: Memory, catalog: Catalog) -> MemorySettings:
        """Return the settings that the first round chose; chosen once."""
        if self.first is not None:
            return self.first.memory().settings
        if not self.is_done(_MEMORY):
            seed = self.recipe.seed
            users = sample_users(self.split, self.recipe.online.num_validation_users, seed)
            self.finish(_MEMORY, choose_memory(counted, catalog, users).to_json())
        return MemorySettings(**self.outcome(_MEMORY))

    def _places(self, catalog: Catalog) -> list[int]:
        """Return the places of the catalog's rows in the data set."""
        at = {item: place for place, item in enumerate(self.dataset.items)}
        return [at[item] for item in catalog.item_ids]

    def teacher_dir(self, learns: Learns, recipe: Recipe | None = None) -> Path:
        """Return the folder of the online recommender's teacher, which has learnt `learns`.

        recipe: of the teacher, if it is not that of the run.
        """
        recipe = recipe or self.recipe
        inputs = self.data_digest[:8], recipe.digest(_OF_TEACHER)[:8]
        window = recipe.recommender.window
        length = () if window == _USUAL_WINDOW else (f"{window}",)
        return self.work / "_".join(("teacher", learns.name.lower(), *inputs, *length))

    def outcome(self, stage: str) -> dict[str, Any]:
        """Read the report of a finished stage."""
        values: dict[str, Any] = json.loads((self.work / f"{stage}.json").read_text())["made"]
        return values

    def is_done(self, stage: str) -> bool:
        file = self.work / f"{stage}.json"
        return file.is_file() and json.loads(file.read_text())["inputs"] == self.inputs(stage)

    def finish(self, stage: str, made: dict[str, Any]) -> None:
        text = json.dumps({"inputs": self.inputs(stage), "made": made}, indent=1)
        draft = self.work / f"{stage}.json.draft"
        draft.write_text(text)
        draft.replace(self.work / f"{stage}.json")

    def inputs(self, stage: str) -> str:
        """Describe the inputs of a stage, so that changes of other stages do not repeat it."""
        inputs = f"{self.data_digest} {self.recipe.digest(self._tables(stage))}"
        if self.chosen is None:
            return inputs
        return f"{inputs} {self.learns} epoch {self.chosen['epoch']}"

    def key(self, stage: str) -> str:
        """Return a short hash of the inputs, for the name of a file of this run."""
        return hashlib.sha256(self.inputs(stage).encode()).hexdigest()[:8]

    def _tables(self, stage: str) -> tuple[str, ...]:
        """Return the recipe tables that a stage depends on.

        For a stage of the reasoner, these include the tables of the stages before it.
        """
        if stage in _TABLES:
            return _TABLES[stage]
        if stage == HELD_OUT:
            return (*_TABLES["online"], *self._tables("reasoner"))
        stages = self.recipe.reasoner.stages
        before = stages if stage == "reasoner" else stages[: stages.index(stage) + 1]
        own = [table for name in before for table in _REASONER_TABLES[name]]
        return ("quantize", "nano", "reasoner", *own)
