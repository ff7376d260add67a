"""Settings of a learner, one TOML file: all numbers that decide its weights, and only these."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from training.event_types import TypeWeights, weight_of
from training.learn.guard import GuardSettings
from training.learn.lazy_adam import Rates
from training.learn.trial_gates import GateSettings
from training.learn.weight_steps import StepSettings
from training.settings_table import read_settings


@dataclass(frozen=True)
class LearnSettings:
    """One table of the TOML file per field but the last two; absent keys keep the defaults."""

    guard: GuardSettings = field(default_factory=GuardSettings)  # limits of users and items
    rates: Rates = field(default_factory=Rates)  # of the optimizer
    steps: StepSettings = field(default_factory=StepSettings)  # on a slice
    gates: GateSettings = field(default_factory=GateSettings)  # before a publication
    # Weight of an event in counts and loss, by its type; those of the release by default.
    types: dict[str, float] = field(default_factory=dict)
    seed: int = 0  # of everything random

    def weight_of(self, event_type: str) -> float:
        return weight_of(self.types, event_type)

    @property
    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_settings(
    file: Path | None, *, seed: int = 0, types: TypeWeights | None = None
) -> LearnSettings:
    """Read settings; None keeps all defaults.

    types: of the release; a file with a table of its own replaces them. Raises InvalidSettings
    naming the file and the key that is wrong.
    """
    default = LearnSettings(types=dict(types or {}), seed=seed)
    return default if file is None else read_settings(file, default)
