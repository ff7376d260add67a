"""Recipe of a training run, one TOML file: all numbers that shape a release, and only these."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.online.memory.memory_settings import MemorySettings
from training.online_recipes import (
    FitRecipe,
    QuantizeRecipe,
    SasRecRecipe,
    ShapeRecipe,
    TeacherRecipe,
)
from training.perception.perception_recipes import (
    CorpusRecipe,
    PerceiveRecipe,
    PerceptionMixture,
)
from training.reasoner_recipes import (
    ActivateRecipe,
    AlignRecipe,
    BootstrapRecipe,
    EnhanceRecipe,
    HardwareRecipe,
    IntegrateRecipe,
    Mixture,
    NanoConfig,
    ReasonerRecipe,
    SelectRecipe,
    ThoughtRecipe,
    UnifyRecipe,
    WarmupRecipe,
)
from training.settings_table import fill_table, read_settings


@dataclass(frozen=True)
class Recipe:
    """One table of the TOML file per field; absent keys keep the defaults above."""

    quantize: QuantizeRecipe = field(default_factory=QuantizeRecipe)
    recommender: ShapeRecipe = field(default_factory=ShapeRecipe)
    online: FitRecipe = field(default_factory=FitRecipe)
    sasrec: SasRecRecipe = field(default_factory=SasRecRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    memory: MemorySettings = field(default_factory=MemorySettings)
    nano: NanoConfig = field(default_factory=NanoConfig)
    reasoner: ReasonerRecipe = field(default_factory=ReasonerRecipe)
    hardware: HardwareRecipe = field(default_factory=HardwareRecipe)
    align: AlignRecipe = field(default_factory=AlignRecipe)
    warmup: WarmupRecipe = field(default_factory=WarmupRecipe)
    integrate: IntegrateRecipe = field(default_factory=IntegrateRecipe)
    mixture: Mixture = field(default_factory=Mixture)
    corpus: CorpusRecipe = field(default_factory=CorpusRecipe)
    perceive: PerceiveRecipe = field(default_factory=PerceiveRecipe)
    perception: PerceptionMixture = field(default_factory=PerceptionMixture)
    bootstrap: BootstrapRecipe = field(default_factory=BootstrapRecipe)
    select: SelectRecipe = field(default_factory=SelectRecipe)
    thoughts: ThoughtRecipe = field(default_factory=ThoughtRecipe)
    activate: ActivateRecipe = field(default_factory=ActivateRecipe)
    enhance: EnhanceRecipe = field(default_factory=EnhanceRecipe)
    unify: UnifyRecipe = field(default_factory=UnifyRecipe)
    types: dict[str, float] = field(default_factory=dict)  # weight of an event by its type
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return all tables; without `types` and `hardware` if they say nothing.

        Recipes of older releases had no such tables.
        """
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if not self.types:
            del values["types"]
        if self.hardware == HardwareRecipe():
            del values["hardware"]
        return values

    def digest(self, tables: Sequence[str]) -> str:
        """Hash the seed and the given tables."""
        values = self.to_json()
        known = {name: values[name] for name in ("seed", *tables) if name in values}
        text = json.dumps(known, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(file: Path, *, seed: int = 0) -> Recipe:
    """Read a recipe. Raises InvalidSettings naming the file and the key that is wrong."""
    return read_settings(file, Recipe(seed=seed))


def recipe_of_reasoner(file: Path, values: Mapping[str, Any]) -> Recipe:
    """Read the recipe of a release's reasoner from its manifest; other tables keep the defaults.

    Raises InvalidSettings naming the file and the key that is wrong.
    """
    default, made = Recipe(), {}
    for name in ("reasoner", "align", "mixture", "thoughts"):
        made[name] = fill_table(file, name, getattr(default, name), values.get(name, {}))
    return dataclasses.replace(default, **made)
