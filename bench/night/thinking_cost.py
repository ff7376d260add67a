"""Cost of the nightly thinking: CPU seconds by phase, and tokens.

Seconds are CPU time of this process. Tokens are counted at the model's input, padding included.
Knows the forward passes of a model and the bytes of a record. Knows nothing of engines.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.catalog.catalog import Catalog
from models.reasoner.think import UserHistory, UserThoughts
from models.release.release import Release
from models.store.records import PrefixRecord, RecordedPrefix, encode_thoughts

PHASES = ("encode", "think", "beam", "write")


@dataclass
class Cost:
    """Cost of thinking, summed over micro-batches."""

    users: int = 0
    sampled: int = 0  # tokens of the paths
    computed: int = 0  # tokens at the model's input
    # Tokens that have to be computed: each prompt and path once, a begin token per closed path,
    # and each beam once on every level but the last.
    needed: int = 0
    prefixes: int = 0
    wall_s: float = 0.0
    # CPU seconds. encode: rendering and first pass of the prompts; think: sampling; beam: prefixes
    # and their union; write: bytes of records and reasons.
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def add(self, other: "Cost") -> None:
        for name in ("users", "sampled", "computed", "needed", "prefixes", "wall_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for phase, spent in other.seconds.items():
            self.seconds[phase] += spent

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started


class Meter:
    """Counts tokens of one model's forward passes, and times the first pass of a round."""

    def __init__(self) -> None:
        self.tokens = 0
        self.first_s: float | None = None
        self._started = 0.0

    def watch(self, model: Any) -> None:
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)

    def _before(self, _model: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        self.tokens += ids.numel()
        self._started = time.process_time()

    def _after(self, _model: Any, _given: Any, _made: Any) -> None:
        if self.first_s is None:
            self.first_s = time.process_time() - self._started


@contextmanager
def measure_round(cost: Cost, meter: Meter) -> Iterator[None]:
    started, tokens = time.perf_counter(), meter.tokens
    yield
    cost.wall_s += time.perf_counter() - started
    cost.computed += meter.tokens - tokens


@contextmanager
def time_sampling(cost: Cost, meter: Meter) -> Iterator[None]:
    """Time a round of sampling; its first forward pass, which encodes the prompts, counts apart."""
    meter.first_s = None
    started = time.process_time()
    yield
    first_s = meter.first_s or 0.0
    cost.seconds["encode"] += first_s
    cost.seconds["think"] += time.process_time() - started - first_s


def write_and_count(
    cost: Cost,
    release: Release,
    users: Sequence[UserHistory],
    found: Sequence[UserThoughts],
    *,
    width: int,
    ids: int,
) -> None:
    with cost.phase("write"):
        for thoughts in found:
            write(release.catalog, thoughts)
    closed = sum(len(thoughts.texts) for thoughts in found)
    sampled = sum(thoughts.tokens for thoughts in found)
    cost.users += len(users)
    cost.sampled += sampled
    cost.prefixes += sum(len(thoughts.prefixes) for thoughts in found)
    cost.needed += ids + sampled + closed * (1 + (release.space.prefix_depth - 1) * width)


def write(catalog: Catalog, thoughts: UserThoughts) -> int:
    """Encode one user's record and thoughts as the night does; return the number of bytes."""
    prefixes = tuple(
        RecordedPrefix(prefix.codes, prefix.path, prefix.logprob) for prefix in thoughts.prefixes
    )
    record = PrefixRecord(1, catalog.space.fingerprint, 1, prefixes).encode(thoughts.user_id)
    return len(record) + len(encode_thoughts(thoughts.texts, user_id=thoughts.user_id))


def read_notes(notes: Path) -> Cost:
    """Sum the costs of the workers' micro-batches; a repeated micro-batch counts once."""
    lines = (line for file in notes.glob("*.jsonl") for line in file.read_text().splitlines())
    total = Cost()
    for found in dict(map(json.loads, lines)).values():
        total.add(Cost(**found))
    return total
