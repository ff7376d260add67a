"""`python -m bench COMMAND ...`. Bad input is one line on stderr and exit 78.

A command is imported when it is called, so that `trie` does not wait for torch.
"""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from bench.service_process import StepFailedError
from models.errors import InvalidInput, InvalidRelease, StoreUnavailable
from models.extras import needs_extras

EX_FAILED, EX_USAGE, EX_TEMPFAIL, EX_CONFIG = 1, 64, 75, 78
_EXIT_CODES: dict[type[Exception], int] = {
    InvalidInput: EX_CONFIG,
    InvalidRelease: EX_CONFIG,
    StoreUnavailable: EX_TEMPFAIL,
    StepFailedError: EX_FAILED,
}
COMMANDS = {
    "quality": "who finds the item that was left out, ranking the whole catalog",
    "stages": "what each stage of the reasoner's training is worth",
    "faithfulness": "what follows thoughts that are whole, cut short, empty or somebody else's",
    "frontier": "what T thoughts and m beams a thought buy, and what they cost",
    "staleness": "what is left of a night's prefixes some interactions later",
    "understanding": "what a reasoner says of items and users, by BERTScore",
    "baseline": "the same for the language model that `generate` decodes",
    "refresh": "users a second of each engine, beside `generate` of transformers",
    "finish": "CPU time of one finish, beside `generate` of transformers",
    "scale": "the finish on catalogs of up to ten million items",
    "exact": "the finish against scoring every item in float64",
    "sids": "fan-out, uniqueness and purity of semantic ids, beside published ones",
    "trie": "a trie over a million random SIDs: seconds and bytes",
    "latency": "open-loop load on a real service, up to saturation",
    "path": "where the CPU time of one request goes",
    "ab": "what an arm of an experiment adds, from logs of exposures and events",
    "million": "very many users loaded, activated and rolled back beside the service",
    "footprint": "bytes a user takes in Redis, memory of a service",
    "sizing": "pods, shards, GPUs and money for so many users, from the results",
    "chaos": "what is promised under faults, R1 to R10, on real processes",
    "soak": "memory of a service under an even load for half an hour",
    "scenario": "simulated users on a real service, with Locust",
    "demo": "the whole system on this machine, with real users",
}


def main(arguments: Sequence[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command not in COMMANDS:
        lines = [f"  {name:13} {purpose}" for name, purpose in COMMANDS.items()]
        print("\n".join(["usage: python -m bench COMMAND [--help]", "", *lines]))
        return 0 if command in ("-h", "--help") else EX_USAGE
    signal.signal(signal.SIGTERM, _exit_in_order)
    try:
        with needs_extras("bench", "train"):
            code: int = import_module(f"bench.{command}").main(arguments[1:])
    except tuple(_EXIT_CODES) as exc:
        print(f"bench {command}: {' '.join(str(exc).split())}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES.items() if isinstance(exc, kind))
    return code


def _exit_in_order(_number: int, _frame: FrameType | None) -> None:
    """So that the processes which a command has started end with it."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
