"""Write thinkahead/options.json: the options and subcommands that TAB completes.

.venv/bin/python docs/tools/option_table.py            # write the file
.venv/bin/python docs/tools/option_table.py --check    # exit 1 if the file is old
"""

import io
import json
import re
import sys
from collections.abc import Callable, Sequence
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
    text = json.dumps({name: _words(name) for name in COMMANDS}, indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        OPTIONS.write_text(text)
    elif not OPTIONS.exists() or OPTIONS.read_text() != text:
        print(f"{OPTIONS.relative_to(ROOT)} is old: run docs/tools/option_table.py")
        return 1
    return 0


def _words(name: str) -> list[str]:
    """Return the options and subcommands that the help of a command names, sorted."""
    text = _help(thinkahead, name)
    if name == "bench":
        return sorted(BENCHES)
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - {"--help"}
    if name in ("train", "night", "completion"):
        found |= _choices(_help(offline) if name == "night" else text)
    return sorted(found | set(_MORE.get(name, ())))


def _choices(text: str) -> set[str]:
    return {word for group in re.findall(r"\{([a-z_,-]+)\}", text) for word in group.split(",")}


def _help(main: Callable[[Sequence[str]], int], *words: str) -> str:
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
