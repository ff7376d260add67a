"""R5: activate a night and roll it back under load, by the operator's commands."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis

from bench.chaos.findings import Bound, Finding, num_failed, p99_ms, statuses
from bench.chaos.world import Conditions, World, open_world, warm_up
from bench.common.results import Row
from bench.common.service_process import StepFailedError
from bench.common.synthetic_users import write_generation
from bench.load.answer_checks import NUM_PREFIXES, Reply
from bench.load.load_stream import LoadStream
from models.store.keys import DEFAULT_KEYS
from models.store.manifest import Manifest

RATE = 200
_CONVERGED_S = 3.0
_POLL_S = 0.01


class Flip(NamedTuple):
    """One change of the live generation."""

    name: str
    generation: int  # live after the change
    at: float  # time of the change in the store, monotonic


def measure(conditions: Conditions) -> Finding:
    with open_world(conditions, "R5") as (world, server):
        nights = _Nights(world, client := redis.Redis.from_url(server.url))
        first = nights.write()
        nights.run("load", first)
        nights.run("activate", first)
        with world.service() as service, world.load(service, rate=RATE) as load:
            warm_up(load)
            began_at = time.monotonic()
            second = nights.write()
            nights.run("load", second)
            flips = []
            for number in range(conditions.times(3, 1)):
                flips.append(nights.flip(f"activate_{number}", "activate", second))
                time.sleep(conditions.seconds(4.0, 2.0))
                flips.append(nights.flip(f"rollback_{number}", "rollback", first))
                time.sleep(conditions.seconds(4.0, 2.0))
        client.close()
    rows = [describe(flip, before, load) for flip, before in _pair_with_next(flips)]
    replies = load.since(began_at)
    mixed = sum("foreign" in reply.flaws for reply in replies)
    bounds = [
        Bound("failed", num_failed(replies), "==", 0),
        Bound("mixed", mixed, "==", 0),
        Bound("converged s", max(float(row["converged_s"]) for row in rows), "<=", _CONVERGED_S),
        Bound("answers a second", _rate(replies), ">=", 0.95 * RATE),
    ]
    return Finding("R5", bounds, rows, replies)


class _Nights:
    """Generations on disk, and the commands that take them live."""

    def __init__(self, world: World, client: "redis.Redis") -> None:
        self._world = world
        self._client = client
        self._out_dir = world.folder / "generations"

    def write(self) -> int:
        """Write a generation and return its number; each user gets other prefixes than before."""
        truth = self._world.truth
        shift = len(truth.shifts) * truth.num_users // 2
        starts = [
            (user + shift) % truth.num_users * NUM_PREFIXES for user in range(truth.num_users)
        ]
        generation = write_generation(
            self._out_dir,
            truth.release,
            num_users=truth.num_users,
            num_prefixes=NUM_PREFIXES,
            seed=0,
            starts=starts,
        )
        truth.shifts[generation] = shift
        return generation

    def flip(self, name: str, command: str, generation: int) -> Flip:
        """Run a command and note when `generation` is live. Raises StepFailedError."""
        with self._start(command, generation) as process:
            flipped_at = self._watch(generation, lambda: process.poll() is not None)
            _finish(process, command)
        return Flip(name, generation, flipped_at)

    def run(self, command: str, generation: int) -> None:
        with self._start(command, generation) as process:
            _finish(process, command)

    def _start(self, command: str, generation: int) -> "subprocess.Popen[str]":
        words = ["--redis", self._world.redis_url, "--out", str(self._out_dir)]
        if command != "rollback":
            words += ["--generation", str(generation)]
            words += ["--release", str(self._world.truth.release.directory)]
        if command == "activate":  # two of these nights have no common prefix for any user
            words += ["--gate", "overlap=0"]
        return subprocess.Popen(
            [sys.executable, "-m", "offline", command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _watch(self, generation: int, is_over: Callable[[], bool]) -> float:
        """Poll the store until this generation is live and return the time.

        Raises StepFailedError if the command ends without it.
        """
        while True:
            has_ended = is_over()
            held = self._client.get(DEFAULT_KEYS.manifest)
            now = time.monotonic()
            if isinstance(held, bytes) and Manifest.decode(held).base.generation == generation:
                return now
            if has_ended:
                raise StepFailedError(f"generation {generation} did not go live")
            time.sleep(_POLL_S)


def _finish(process: "subprocess.Popen[str]", command: str) -> None:
    _, complaint = process.communicate()
    if process.returncode:
        last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
        raise StepFailedError(f"python -m offline {command}: {last[0]}")


def _pair_with_next(flips: Sequence[Flip]) -> list[tuple[Flip, float]]:
    """Pair each flip with the time of the next one; infinity for the last."""
    ends = [flip.at for flip in flips[1:]] + [float("inf")]
    return list(zip(flips, ends, strict=True))


def describe(flip: Flip, end: float, load: LoadStream) -> Row:
    """Return the row of one flip.

    `converged_s` is the time from the change in the store to the last answer of an old generation.
    """
    replies = load.since(flip.at, end)
    old = [
        reply.ended_at
        for reply in replies
        if reply.generation is not None and reply.generation != flip.generation
    ]
    row: Row = {
        "name": flip.name,
        "answers": len(replies),
        "failed": num_failed(replies),
        "p99_ms": p99_ms(replies),
        **statuses(replies),
        "converged_s": max(old) - flip.at if old else 0.0,
    }
    print(f"R5 {flip.name}: converged {row['converged_s']:.2f} s, p99 {row['p99_ms']:.1f} ms")
    return row


def _rate(replies: Sequence[Reply]) -> float:
    moments = [reply.due_at for reply in replies]
    return len(moments) / max(max(moments) - min(moments), 1e-9) if moments else 0.0
