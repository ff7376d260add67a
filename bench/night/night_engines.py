"""Thinkers of `bench refresh` with their costs: our engines, and the loop over `generate`.

All of them make the same kind of thoughts of a micro-batch. Seconds are CPU time of this process.
Tokens are counted at the model's input, padding included. Ray workers write their own costs.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.night.generate_loop import GenerateLoop
from models.catalog.catalog import Catalog
from models.reasoner.beam import Beam
from models.reasoner.think import (
    Reasoner,
    ThoughtBatch,
    UserHistory,
    UserThoughts,
    think_users,
    user_seed,
)
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


class Thinker(Protocol):
    name: str
    cost: Cost

    def think(self, users: Sequence[UserHistory], *, paths: int, width: int) -> None: ...


class Ours:
    """One of our engines, called as the night calls it."""

    def __init__(self, name: str, reasoner: Reasoner, release: Release, meter: "Meter") -> None:
        self.name = name
        self.cost = Cost()
        self._reasoner = reasoner
        self._release = release
        self._meter = meter

    def think(self, users: Sequence[UserHistory], *, paths: int, width: int) -> None:
        self.find(users, paths=paths, width=width)

    def find(self, users: Sequence[UserHistory], *, paths: int, width: int) -> list[UserThoughts]:
        """Think about the users and return their thoughts."""
        timed = _Timed(self._reasoner, self.cost, self._meter)
        with _measured(self.cost, self._meter), self.cost.phase("beam"):
            found = think_users(
                timed,
                self._release.catalog,
                users,
                paths=paths,
                width=width,
                seeds=[user_seed(0, user.user_id) for user in users],
            )
        self.cost.seconds["beam"] -= timed.seconds
        _write_and_count(self.cost, self._release, users, found, width=width, ids=timed.prompt_ids)
        return found


class Plain:
    """The loop over `generate` of transformers."""

    name = "plain_generate"

    def __init__(self, plain: GenerateLoop, release: Release, meter: "Meter") -> None:
        self.cost = Cost()
        self._plain = plain
        self._release = release
        self._meter = meter

    def think(self, users: Sequence[UserHistory], *, paths: int, width: int) -> None:
        beams: list[list[Beam]]
        with _measured(self.cost, self._meter):
            with _split(self.cost, self._meter):
                sequences = self._plain.sample(users, paths=paths, seed=self.cost.users)
            with self.cost.phase("beam"):
                beams = self._plain.beam(sequences, width=width)
                found = self._plain.unite(users, sequences, beams, paths=paths)
        ids = sum(len(self._plain.encode(user)) for user in users)
        _write_and_count(self.cost, self._release, users, found, width=width, ids=ids)


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


class _Timed:
    """A reasoner that times its thinking apart from the following beam search."""

    def __init__(self, reasoner: Reasoner, cost: Cost, meter: Meter) -> None:
        self.seconds = 0.0
        self.prompt_ids = 0
        self._reasoner: Any = reasoner
        self._cost = cost
        self._meter = meter

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> ThoughtBatch:
        encode = self._reasoner.tokenizer.encode
        self.prompt_ids = sum(len(encode(one, add_special_tokens=False)) for one in prompts)
        started = time.process_time()
        with _split(self._cost, self._meter):
            thoughts: ThoughtBatch = self._reasoner.think(prompts, paths=paths, seeds=seeds)
        self.seconds = time.process_time() - started
        return thoughts


@contextmanager
def _measured(cost: Cost, meter: Meter) -> Iterator[None]:
    started, tokens = time.perf_counter(), meter.tokens
    yield
    cost.wall_s += time.perf_counter() - started
    cost.computed += meter.tokens - tokens


@contextmanager
def _split(cost: Cost, meter: Meter) -> Iterator[None]:
    """Time a round of sampling; its first forward pass, which encodes the prompts, counts apart."""
    meter.first_s = None
    started = time.process_time()
    yield
    first_s = meter.first_s or 0.0
    cost.seconds["encode"] += first_s
    cost.seconds["think"] += time.process_time() - started - first_s


def _write_and_count(
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


def load_thinkers(release: Release, *, width: int, say: Callable[[str], None]) -> list[Thinker]:
    """Load all installed thinkers, `generate` first; name a missing one with `say`."""
    from models.reasoner.transformers_engine import TransformersReasoner

    plain, meter = GenerateLoop.load(release.reasoner_dir, release.catalog), Meter()
    meter.watch(plain.model)
    thinkers: list[Thinker] = [Plain(plain, release, meter)]
    ours, meter = TransformersReasoner.load(release.reasoner_dir, release.space), Meter()
    meter.watch(ours.model)
    thinkers.append(Ours("transformers", ours, release, meter))
    try:
        from models.reasoner.vllm_engine import VllmReasoner
    except ModuleNotFoundError as exc:
        say(f"vllm is skipped: {exc.name} is not installed")
        return thinkers
    vllm = VllmReasoner.load(release.reasoner_dir, release.catalog.trie, width=width)
    meter = Meter()
    vllm.llm.apply_model(meter.watch)
    return [*thinkers, Ours("vllm", vllm, release, meter)]


def load_worker(
    release_dir: Path, paths: int, width: int, notes: Path
) -> Callable[..., list[UserThoughts]]:
    """Return the function of a Ray worker: the transformers engine on one thread.

    It appends the cost of each micro-batch to a file in `notes`, for `read_notes`. All workers must
    be on this machine.
    """
    import torch

    from models.reasoner.transformers_engine import TransformersReasoner

    torch.set_num_threads(1)
    release = Release.load(release_dir)
    ours, meter = TransformersReasoner.load(release.reasoner_dir, release.space), Meter()
    meter.watch(ours.model)
    thinker = Ours("ray", ours, release, meter)

    def think(users: Sequence[UserHistory]) -> list[UserThoughts]:
        thinker.cost = Cost()
        found = thinker.find(users, paths=paths, width=width)
        with (notes / f"{os.getpid()}.jsonl").open("a") as stream:
            stream.write(json.dumps([users[0].user_id, asdict(thinker.cost)]) + "\n")
        return found

    return think


def read_notes(notes: Path) -> Cost:
    """Sum the costs of the workers' micro-batches; a repeated micro-batch counts once."""
    lines = (line for file in notes.glob("*.jsonl") for line in file.read_text().splitlines())
    total = Cost()
    for found in dict(map(json.loads, lines)).values():
        total.add(Cost(**found))
    return total
