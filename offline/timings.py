"""How long each micro-batch took, beside its shard: `part-00000.times`, one JSON line each.

A shard comes out the same however often a night was stopped, so it holds no time. From these come
speed and cost of a night whose thinking was shared by many processes. They are about the past and
nothing depends on them: a line that was torn is passed over.
"""

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

NUM_SLOWEST = 5


class Timing(NamedTuple):
    """One micro-batch: its shard, its number in there, and seconds of the process that thought."""

    seconds: float
    shard: int
    batch: int
    users: int
    tokens: int


def note_timing(folder: Path, timing: Timing) -> None:
    with (folder / f"part-{timing.shard:05d}.times").open("a") as stream:
        stream.write(json.dumps(timing) + "\n")


def read_timings(folder: Path) -> Iterator[Timing]:
    for file in sorted(folder.glob("part-*.times")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                seconds, *counts = json.loads(line)
                yield Timing(float(seconds), *map(int, counts))
            except (ValueError, TypeError):
                continue


def describe_timings(folder: Path, *, price_per_hour: float | None) -> dict[str, Any]:
    """Of all processes together. users_per_s, tokens_per_s: of one process. cost: null without a
    price; of the thinking alone."""
    users, tokens, seconds = 0, 0, 0.0
    slowest: list[Timing] = []
    for timing in read_timings(folder):
        users, tokens = users + timing.users, tokens + timing.tokens
        seconds += timing.seconds
        push = heapq.heappush if len(slowest) < NUM_SLOWEST else heapq.heappushpop
        push(slowest, timing)
    return {
        "think_s": round(seconds, 3),
        "users_per_s": round(users / seconds, 3) if seconds else None,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
        "cost": round(seconds / 3600 * price_per_hour, 4) if price_per_hour is not None else None,
        "slowest_batches": [timing._asdict() for timing in sorted(slowest, reverse=True)],
    }
