"""`thinkahead COMMAND ...`, also as `python -m thinkahead`.

The exit code is that of the command; 64 for an unknown one.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from models.program import name_program
from thinkahead.commands import COMMANDS
from thinkahead.help_page import help_page, unknown

EX_USAGE, EX_CONFIG, INTERRUPTED = 64, 78, 130
_HELP = ("-h", "--help", "help")
_TIERS = {"training": "train", "service": "serve", "offline": "night", "bench": "bench"}


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in _HELP:
        print(help_page())
        return 0 if words else EX_USAGE
    command = COMMANDS.get(words[0])
    if command is None:
        print(unknown(words[0]), file=sys.stderr)
        return EX_USAGE
    for tier, name in _TIERS.items():
        name_program(tier, f"thinkahead {name}")
    if command.note and words[1:2] in (["-h"], ["--help"]):
        print(command.note)
    try:
        code: int = import_module(command.module).main([*command.before, *words[1:]])
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
