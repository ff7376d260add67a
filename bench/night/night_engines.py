"""Thinkers of `bench refresh`: our engines, and the loop over `generate`.

All of them make the same kind of thoughts of a micro-batch. Ray workers write their own costs.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from bench.night.generate_loop import GenerateLoop
from bench.night.thinking_cost import Cost, Meter, measure_round, time_sampling, write_and_count
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
        with measure_round(self.cost, self._meter), self.cost.phase("beam"):
            found = think_users(
                timed,
                self._release.catalog,
                users,
                paths=paths,
                width=width,
                seeds=[user_seed(0, user.user_id) for user in users],
            )
        self.cost.seconds["beam"] -= timed.seconds
        write_and_count(self.cost, self._release, users, found, width=width, ids=timed.prompt_ids)
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
        with measure_round(self.cost, self._meter):
            with time_sampling(self.cost, self._meter):
                sequences = self._plain.sample(users, paths=paths, seed=self.cost.users)
            with self.cost.phase("beam"):
                beams = self._plain.beam(sequences, width=width)
                found = self._plain.unite(users, sequences, beams, paths=paths)
        ids = sum(len(self._plain.encode(user)) for user in users)
        write_and_count(self.cost, self._release, users, found, width=width, ids=ids)


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
        with time_sampling(self._cost, self._meter):
            thoughts: ThoughtBatch = self._reasoner.think(prompts, paths=paths, seeds=seeds)
        self.seconds = time.process_time() - started
        return thoughts


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
