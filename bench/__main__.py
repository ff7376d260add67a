"""`python -m bench COMMAND ...`. Bad input is one line on stderr and exit 78.

A command is imported when it is called, so that `trie` does not wait for torch.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from models.errors import InvalidInput, InvalidRelease, StoreUnavailable

EX_USAGE, EX_TEMPFAIL, EX_CONFIG = 64, 75, 78
COMMANDS = {
    "quality": "who finds the item that was left out, ranking the whole catalog",
    "baseline": "the same for the language model that `generate` decodes",
    "exact": "the one-pass finish against scoring every item in float64",
    "sids": "fan-out, uniqueness and purity of semantic ids, beside published ones",
    "trie": "a trie over a million random SIDs: seconds and bytes",
    "demo": "the whole system on this machine, with real users",
}


def main(arguments: Sequence[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command not in COMMANDS:
        lines = [f"  {name:8} {purpose}" for name, purpose in COMMANDS.items()]
        print("\n".join(["usage: python -m bench COMMAND [--help]", "", *lines]))
        return 0 if command in ("-h", "--help") else EX_USAGE
    try:
        code: int = import_module(f"bench.{command}").main(arguments[1:])
    except (InvalidInput, InvalidRelease, StoreUnavailable) as exc:
        print(f"bench {command}: {' '.join(str(exc).split())}", file=sys.stderr)
        return EX_TEMPFAIL if isinstance(exc, StoreUnavailable) else EX_CONFIG
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
