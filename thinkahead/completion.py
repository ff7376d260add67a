"""`thinkahead completion bash|zsh|fish`: print a script that completes commands and options.

The options come from options.json, which `docs/tools/option_table.py` writes from every --help: a
TAB imports nothing.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from thinkahead.commands import COMMANDS

OPTIONS = Path(__file__).with_name("options.json")
_SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_thinkahead() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    if (( COMP_CWORD == 1 )); then
        words="{names}"
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    if (( COMP_CWORD == 1 )) || [[ $word == -* ]] || (( COMP_CWORD == 2 )); then
        COMPREPLY=( $(compgen -W "$words" -- "$word") )
    fi
}}
complete -o default -F _thinkahead thinkahead
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="thinkahead completion",
        description="Print a script that completes commands and options with TAB.",
    )
    parser.add_argument("shell", choices=_SHELLS)
    print(script(parser.parse_args(arguments).shell), end="")
    return 0


def script(shell: str) -> str:
    words: dict[str, list[str]] = json.loads(OPTIONS.read_text())
    if shell == "fish":
        return _fish(words)
    cases = "\n".join(
        f'            {name}) words="{" ".join(found)}" ;;' for name, found in words.items()
    )
    bash = _BASH.format(names=" ".join(COMMANDS), cases=cases)
    return _ZSH + bash if shell == "zsh" else bash


def _fish(words: dict[str, list[str]]) -> str:
    lines = [
        f"complete -c thinkahead -n __fish_use_subcommand -f -a {name} -d '{command.purpose}'"
        for name, command in COMMANDS.items()
    ]
    for name, found in words.items():
        seen = f"complete -c thinkahead -n '__fish_seen_subcommand_from {name}'"
        lines += [
            f"{seen} -l {word[2:]}" if word.startswith("--") else f"{seen} -a {word}"
            for word in found
        ]
    return "\n".join(lines) + "\n"
