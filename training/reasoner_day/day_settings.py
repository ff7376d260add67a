"""Settings of a reasoner's day, one TOML file: all numbers that decide its weights."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from training.event_types import TypeWeights
from training.learn.guard import GuardSettings
from training.settings_table import read_settings


@dataclass(frozen=True)
class DaySteps:
    """Learning of the new events."""

    learning_rate: float = 3e-4  # peak
    align_passes: int = 1  # over the new events, by the tasks of alignment
    activate_passes: int = 2  # over the users with new events; each pass cuts their histories
    replay_share: float = 0.5  # of all tokens, those of old events
    test_share: float = 0.2  # of the new events, the newest: tested before they are learnt
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        for name in ("replay_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected from 0 to below 1")


@dataclass(frozen=True)
class DayGates:
    """Limits of a candidate; log-probabilities are those of prefixes, after thoughts."""

    least_events: int = 50  # new events that a day needs; with fewer nothing is learnt
    most_events: int = 300  # new events that are tested, drawn at random
    old_users: int = 200  # of the fixed sample that measures forgetting
    paths: int = 2  # thoughts a question
    width: int = 10  # beams a thought
    new_margin: float = 0.02  # log P that new events may cost, beyond chance
    forget_margin: float = 0.05  # log P that the old sample may cost in a day, beyond chance ...
    drift_margin: float = 0.3  # ... and since the first day, whatever the chance
    found_margin: float = 0.02  # share of prefixes found that either sample may cost, beyond chance
    closed_margin: float = 0.05  # share of thoughts that may end no more
    formed_margin: float = 0.1  # share of thoughts that may name a next topic no more
    norm_growth: float = 1.5  # of a weight in a day


@dataclass(frozen=True)
class DayTuning:
    """Weights that a day trains."""

    tuning: str = "full"  # or "lora": adapters beside token rows, merged after the day
    lora_rank: int = 16
    rows: str = "itemic"  # token rows beside adapters: those of all itemic tokens, or "fresh"


@dataclass(frozen=True)
class DaySettings:
    """One table of the TOML file per field but the last two; absent keys keep the defaults."""

    steps: DaySteps = field(default_factory=DaySteps)  # learning of the new events
    gates: DayGates = field(default_factory=DayGates)  # limits of a candidate
    reasoner: DayTuning = field(default_factory=DayTuning)  # weights that a day trains
    # Limits of users and items within a day. Above the share of held events nothing is learnt.
    guard: GuardSettings = field(default_factory=GuardSettings)
    types: dict[str, float] = field(default_factory=dict)  # weight 0 leaves out a type of events
    seed: int = 0  # of everything random

    @property
    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_day_settings(
    file: Path | None, *, seed: int = 0, types: TypeWeights | None = None
) -> DaySettings:
    """Read settings; None keeps all defaults.

    types: of the release; a file with a table of its own replaces them. Raises InvalidSettings
    naming the file and the key that is wrong.
    """
    default = DaySettings(types=dict(types or {}), seed=seed)
    return default if file is None else read_settings(file, default)
