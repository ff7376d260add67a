"""`python -m bench COMMAND ...`. Bad input is one line on stderr and exit 78.

Each command's module is imported only when the command runs, so that `trie` does not import torch.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NamedTuple

from bench.common.service_process import StepFailedError
from models.errors import InvalidInput, InvalidRelease, StoreUnavailable
from models.extras import needs_extras
from models.program import program
from models.store.namespace import VARIABLE

EX_FAILED, EX_USAGE, EX_TEMPFAIL, EX_CONFIG = 1, 64, 75, 78
_EXIT_CODES: dict[type[Exception], int] = {
    InvalidInput: EX_CONFIG,
    InvalidRelease: EX_CONFIG,
    StoreUnavailable: EX_TEMPFAIL,
    StepFailedError: EX_FAILED,
}


class Command(NamedTuple):
    """One word after `python -m bench`."""

    module: str  # below `bench`
    purpose: str


COMMANDS = {
    "quality": Command(
        "quality.quality",
        "rank of the left-out item in the whole catalog, by reasoner, online tier and both",
    ),
    "table1": Command(
        "table1.table1", "the baselines of the paper's Table 1, trained and judged beside ours"
    ),
    "stages": Command("quality.training_stages", "gain of each stage of the reasoner's training"),
    "faithfulness": Command(
        "reasons.faithfulness",
        "truth of the reasons of served items: steps, because items, deletions",
    ),
    "thought-words": Command(
        "quality.thought_words",
        "results after thoughts that are whole, cut short, empty or of another user",
    ),
    "evidence": Command(
        "quality.evidence_ways",
        "log-probability and recall of reasoners at once and with thoughts, with evidence or not",
    ),
    "frontier": Command(
        "quality.frontier", "quality and cost of T thoughts and m beams per thought"
    ),
    "staleness": Command(
        "quality.staleness", "quality of a night's prefixes some interactions later"
    ),
    "time-split": Command(
        "quality.timeline.time_split",
        "each event after a day predicted in order, by arms that are frozen or learn on",
    ),
    "reasoner-days": Command(
        "quality.timeline.reasoner_days",
        "next days predicted by a reasoner that learns day by day, beside a frozen one",
    ),
    "understanding": Command(
        "quality.understanding", "BERTScore of a reasoner's texts about items and users"
    ),
    "wishes": Command(
        "wishes.wish_bench", "share of served items that fit a wish, through a real service"
    ),
    "baseline": Command(
        "finish.baseline_quality", "ranking quality of the language model behind `generate`"
    ),
    "refresh": Command(
        "night.night_speed",
        "users per second of each engine at night, beside `generate` of transformers",
    ),
    "finish": Command(
        "finish.finish_time", "CPU time of one finish, beside `generate` of transformers"
    ),
    "scale": Command("finish.scale", "the finish on catalogs of up to ten million items"),
    "exact": Command("finish.exact", "the finish compared with scoring every item in float64"),
    "sids": Command(
        "quality.sid_quality",
        "fan-out, uniqueness and purity of semantic ids, beside published ones",
    ),
    "trie": Command(
        "finish.trie_cost", "a trie over a million random SIDs: build time, bytes, look-ups"
    ),
    "latency": Command("load.latency", "open-loop load on a real service, up to saturation"),
    "workers": Command(
        "load.worker_scaling", "requests that several workers answer at one port, beside one"
    ),
    "path": Command("load.request_path", "CPU time of each part of one request"),
    "ab": Command("ab.ab", "gain of an experiment's arms, from logs of exposures and events"),
    "million": Command(
        "load.million", "a night of a million users goes live while the service answers"
    ),
    "freshness": Command(
        "freshness.freshness",
        "seconds from an event to the answers that know of it, beside a learner",
    ),
    "footprint": Command("load.footprint", "bytes per user in Redis, memory of a service"),
    "sizing": Command(
        "load.sizing", "pods, shards, GPUs and costs for a number of users, from the results"
    ),
    "chaos": Command("chaos.chaos", "promises R1 to R10 under faults, on real processes"),
    "soak": Command(
        "chaos.r9_soak", "memory of a service under an even load for half an hour (R9)"
    ),
    "scenario": Command("load.scenario", "simulated users on a real service, with Locust"),
    "tables": Command(
        "tables.fill_pages", "write the results tables of README and docs from bench/results"
    ),
    "demo": Command("demo", "the whole system on this machine, with real users"),
}


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "--help"
    command = COMMANDS.get(name)
    if command is None:
        lines = [f"  {name:13} {command.purpose}" for name, command in COMMANDS.items()]
        print("\n".join([f"usage: {program('bench')} COMMAND [--help]", "", *lines]))
        return 0 if name in ("-h", "--help") else EX_USAGE
    signal.signal(signal.SIGTERM, _exit_in_order)
    if name != "demo":
        os.environ.pop(VARIABLE, None)  # all others fill stores of their own
    try:
        with needs_extras("bench", "train"):
            code: int = import_module(f"bench.{command.module}").main(arguments[1:])
    except tuple(_EXIT_CODES) as exc:
        print(f"bench {name}: {' '.join(str(exc).split())}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES.items() if isinstance(exc, kind))
    return code


def _exit_in_order(_number: int, _frame: FrameType | None) -> None:
    """Exit through SystemExit, so that a command's child processes end with it."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
