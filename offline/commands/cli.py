"""The command line: arguments in, one JSON line or one error line out.

An error after which the work can continue names the command for it. `exits` has the exit codes,
`nightly` the commands of a night, `live_commands` the commands for live generations.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from offline.commands import nightly
from offline.commands.exits import exit_of, signals_raise
from offline.commands.live_commands import add_live_commands
from offline.commands.options import Parser, add_redis_argument, open_store
from offline.plan.importer import import_dataset
from offline.progress import make_progress

Command = Callable[[argparse.Namespace, Console], None]


def main(arguments: Sequence[str]) -> int:
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    try:
        with signals_raise():
            options = _parser().parse_args(arguments)
            command: Command = options.run
            command(options, console)
    except BaseException as exc:  # bugs are raised again
        ending = exit_of(exc)
        if ending is None:
            raise
        hint = _resume_hint(arguments) if ending.is_resumable else ""
        print(f"offline: {' '.join(ending.reason.split())}{hint}", file=sys.stderr)
        return ending.code
    return 0


def _resume_hint(arguments: Sequence[str]) -> str:
    words = list(arguments)
    if words[:1] == ["status"]:
        return ""
    if words[0] in nightly.RESUMABLE and not {"--resume", "--dry-run"} & set(words):
        words.append("--resume")
    return f"; continue with: python -m offline {shlex.join(words)}"


def _import(options: argparse.Namespace, console: Console) -> None:
    with open_store(options.redis) as (store, runner), make_progress(console) as progress:
        counts = runner.run(import_dataset(options.data, store, progress, again=options.again))
    print(counts.model_dump_json())


def _parser() -> Parser:
    """Build the parser; every command sets `run`."""
    parser = Parser(prog="python -m offline", description="The offline tier.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    importing = commands.add_parser("import", help="fill the histories from a data folder")
    importing.add_argument("--data", type=Path, required=True, metavar="DIR")
    importing.add_argument(
        "--again", action="store_true", help="import even if the store has these data already"
    )
    importing.set_defaults(run=_import)
    add_redis_argument(importing)
    nightly.add_commands(commands)
    add_live_commands(commands, open_store)
    return parser
