"""`python -m bench COMMAND ...`. Bad input is one line on stderr and exit 78.

Each command's module is imported only when the command runs, so that `trie` does not import torch.
"""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NamedTuple

from bench.common.service_process import StepFailedError
from models.errors import InvalidInput, InvalidRelease, StoreUnavailable
from models.extras import needs_extras

EX_FAILED, EX_USAGE, EX_TEMPFAIL, EX_CONFIG = 1, 64, 75, 78
_EXIT_CODES: dict[type[Exception], int] = {
    InvalidInput: EX_CONFIG,
    InvalidRelease: EX_CONFIG,
    StoreUnavailable: EX_TEMPFAIL,
    StepFailedError: EX_FAILED,
}


class Command(NamedTuple):
    module: str  # below `bench`
    purpose: str


COMMANDS = {
    "quality": Command(
        "quality.quality", "who finds the item that was left out, ranking the whole catalog"
    ),
    "stages": Command(
        "quality.training_stages", "what each stage of the reasoner's training is worth"
    ),
    "faithfulness": Command(
        "quality.faithfulness",
        "what follows thoughts that are whole, cut short, empty or somebody else's",
    ),
    "frontier": Command(
        "quality.frontier", "what T thoughts and m beams a thought buy, and what they cost"
    ),
    "staleness": Command(
        "quality.staleness", "what is left of a night's prefixes some interactions later"
    ),
    "understanding": Command(
        "quality.understanding", "what a reasoner says of items and users, by BERTScore"
    ),
    "baseline": Command(
        "finish.baseline_quality", "the same for the language model that `generate` decodes"
    ),
    "refresh": Command(
        "night.night_speed", "users a second of each engine, beside `generate` of transformers"
    ),
    "finish": Command(
        "finish.finish_time", "CPU time of one finish, beside `generate` of transformers"
    ),
    "scale": Command("finish.scale", "the finish on catalogs of up to ten million items"),
    "exact": Command("finish.exact", "the finish against scoring every item in float64"),
    "sids": Command(
        "quality.sid_quality",
        "fan-out, uniqueness and purity of semantic ids, beside published ones",
    ),
    "trie": Command("finish.trie_cost", "a trie over a million random SIDs: seconds and bytes"),
    "latency": Command("load.latency", "open-loop load on a real service, up to saturation"),
    "path": Command("load.request_path", "where the CPU time of one request goes"),
    "ab": Command("ab.ab", "what an arm of an experiment adds, from logs of exposures and events"),
    "million": Command(
        "load.million", "very many users loaded, activated and rolled back beside the service"
    ),
    "footprint": Command("load.footprint", "bytes a user takes in Redis, memory of a service"),
    "sizing": Command(
        "load.sizing", "pods, shards, GPUs and money for so many users, from the results"
    ),
    "chaos": Command("chaos.chaos", "what is promised under faults, R1 to R10, on real processes"),
    "soak": Command("chaos.r9_soak", "memory of a service under an even load for half an hour"),
    "scenario": Command("load.scenario", "simulated users on a real service, with Locust"),
    "tables": Command("tables.pages", "the results tables of README and docs, from the results"),
    "demo": Command("demo", "the whole system on this machine, with real users"),
}


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "--help"
    command = COMMANDS.get(name)
    if command is None:
        lines = [f"  {name:13} {command.purpose}" for name, command in COMMANDS.items()]
        print("\n".join(["usage: python -m bench COMMAND [--help]", "", *lines]))
        return 0 if name in ("-h", "--help") else EX_USAGE
    signal.signal(signal.SIGTERM, _exit_in_order)
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
