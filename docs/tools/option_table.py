"""Write thinkahead/options.json: the options and subcommands that TAB completes.

.venv/bin/python docs/tools/option_table.py
"""

import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from bench.__main__ import COMMANDS as BENCHES  # noqa: E402
from offline.__main__ import main as offline  # noqa: E402
from thinkahead.__main__ import main as thinkahead  # noqa: E402
from thinkahead.commands import COMMANDS  # noqa: E402
from thinkahead.completion import OPTIONS  # noqa: E402

_MORE = {"serve": ["check", "keys"], "learn": ["roll-back", "canary", "reason-day"]}


def main() -> int:
    helps = {name: _help(thinkahead, name) for name in COMMANDS}
    table = option_table(helps, _help(offline))
    OPTIONS.write_text(json.dumps(table, indent=1) + "\n")
    return 0


def option_table(helps: Mapping[str, str], night: str) -> dict[str, list[str]]:
    """Return the options and subcommands of every command, sorted.

    helps: text of `thinkahead NAME --help` by name; night: that of the whole offline tier.
    """
    table = {}
    for name, text in helps.items():
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - {"--help"}
        if name in ("train", "night", "completion"):
            found |= _choices(night if name == "night" else text)
        table[name] = sorted(BENCHES if name == "bench" else found | set(_MORE.get(name, ())))
    return table


def _choices(text: str) -> set[str]:
    return {word for group in re.findall(r"\{([a-z_,-]+)\}", text) for word in group.split(",")}


def _help(main: Callable[[Sequence[str]], int], *words: str) -> str:
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
