"""The command line: arguments in, one JSON line or one error line out.

An error after which the work can continue names the command for it. `exits` has the exit codes,
`nightly` the commands of a night, `live_commands` the commands for live generations.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from models.catalog.dataset import Dataset
from models.program import program
from models.release.data_match import Match, match
from offline.commands import nightly
from offline.commands.exits import exit_of, signals_raise
from offline.commands.live_commands import add_live_commands
from offline.commands.options import Parser, add_store_arguments, default_out, open_store
from offline.disk.bases import load_base
from offline.plan.exporter import export_dataset, read_feed
from offline.plan.importer import import_dataset
from offline.progress import make_progress

Command = Callable[[argparse.Namespace, Console], None]


logger = logging.getLogger(__name__)


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
    return f"; continue with: {program('offline')} {shlex.join(words)}"


def _import(options: argparse.Namespace, console: Console) -> None:
    with open_store(options) as (store, runner), make_progress(console) as progress:
        counts = runner.run(
            import_dataset(
                *(options.data, store, progress),
                again=options.again,
                check=lambda dataset: _warn_of_other_data(options, dataset),
            )
        )
    print(counts.model_dump_json())


def _warn_of_other_data(options: argparse.Namespace, dataset: Dataset) -> None:
    """Log one line if the release was trained on other data. Raises InvalidRelease."""
    if options.release is None:
        return
    release = load_base(options.release)
    if match(release, options.data, dataset) is Match.OTHER:
        logger.warning(
            "%s@%s was trained on other data than %s; it cannot tell items that it does not know",
            *(release.name, release.version, options.data),
        )


def _export(options: argparse.Namespace, console: Console) -> None:
    out_dir = options.archive or default_out(options.namespace)
    catalog = load_base(options.release).catalog if options.release else None
    with open_store(options) as (store, runner):
        fed = runner.run(read_feed(store))
    counts = export_dataset(
        out_dir,
        options.out,
        base=options.data,
        catalog=catalog,
        fed=fed,
        until_s=options.until,
    )
    print(json.dumps(counts._asdict()))


def _start_of_day(text: str) -> int:
    """Return the unix seconds at which a day begins, UTC."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected YYYY-MM-DD") from None


def _add_export(commands: Any) -> None:
    exporting = commands.add_parser("export", help="write base data and archive as a data folder")
    add = exporting.add_argument
    add("--data", type=Path, metavar="DIR", help="data folder to begin with")
    add(
        "--release",
        type=Path,
        metavar="DIR",
        help="catalog of items that the data folder lacks; a release or a live folder",
    )
    add("--out", type=Path, required=True, metavar="NEW", help="data folder to be made")
    add("--archive", type=Path, metavar="DIR", help="folder of generations (default: state folder)")
    add("--until", type=_start_of_day, metavar="YYYY-MM-DD", help="only events before this UTC day")
    add_store_arguments(exporting)
    exporting.set_defaults(run=_export)


def _parser() -> Parser:
    """Build the parser; every command sets `run`."""
    parser = Parser(prog=program("offline"), description="The offline tier.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    importing = commands.add_parser("import", help="fill the histories from data")
    importing.add_argument(
        "--data", type=Path, required=True, metavar="DATA", help="data folder, or files of events"
    )
    importing.add_argument(
        "--again", action="store_true", help="import even if the store has these data already"
    )
    importing.add_argument(
        "--release",
        type=Path,
        metavar="DIR",
        help="warn if this release was trained on other data",
    )
    importing.set_defaults(run=_import)
    add_store_arguments(importing)
    _add_export(commands)
    nightly.add_commands(commands)
    add_live_commands(commands, open_store)
    return parser
