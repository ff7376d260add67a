"""The command line: arguments in, one JSON line or one error line out.

Exit codes: 0 done; 75 try again (the store is away, another job was faster, the disk is full);
78 fix the input; 65 a gate failed, so that what was live stays live; 130 interrupted.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.logging import RichHandler

from models.embedded import resolve
from models.errors import (
    GatesFailed,
    InvalidInput,
    InvalidRelease,
    InvalidSettings,
    ManifestConflict,
    StoreUnavailable,
)
from models.records import MAX_PATHS
from models.store import RedisStore
from offline.importer import import_dataset
from offline.live_commands import (
    add_gate_arguments,
    add_live_commands,
    live_settings,
    out_folder,
)
from offline.progress import make_progress
from offline.settings import DEFAULT_PATHS, DEFAULT_WIDTH, RefreshSettings

EX_DATAERR = 65
EX_TEMPFAIL = 75
EX_CONFIG = 78
EX_INTERRUPTED = 130

_REDIS_TIMEOUT_MS = 10_000  # nobody waits for an answer here; a loading server may take a while
_MAX_WIDTH = 1024


def main(arguments: Sequence[str]) -> int:
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    try:
        with _prompt_interrupts():
            options = _parser().parse_args(arguments)
            options.run(options, console)
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was live stays live, and it can be run again", EX_INTERRUPTED
        )
    except (InvalidInput, InvalidRelease) as exc:
        return _fail(str(exc), EX_CONFIG)
    except GatesFailed as exc:
        return _fail(str(exc), EX_DATAERR)
    except (StoreUnavailable, ManifestConflict) as exc:
        return _fail(str(exc), EX_TEMPFAIL)
    except OSError as exc:
        return _fail(f"{exc.filename or 'input or output'}: {exc.strerror or exc}", EX_TEMPFAIL)
    return 0


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """Ctrl-C raises where it strikes, inside of asyncio too.

    asyncio would cancel the running task instead, and redis-py 8.1 can lose a cancellation.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(message: str, code: int) -> int:
    print(f"offline: {' '.join(message.split())}", file=sys.stderr)
    return code


def _import(options: argparse.Namespace, console: Console) -> None:
    with _store(options.redis) as (store, runner), make_progress(console) as progress:
        counts = runner.run(import_dataset(options.data, store, progress, again=options.again))
    print(counts.model_dump_json())


def _refresh(options: argparse.Namespace, console: Console) -> None:
    with console.status("starting"):  # seconds of torch and transformers; `status` has no need
        from offline.refresh import refresh

    settings, now_ms, live = _settings(options), time.time_ns() // 1_000_000, live_settings(options)
    with _store(options.redis) as (store, runner), make_progress(console) as progress:
        summary = refresh(
            settings, store=store, runner=runner, progress=progress, now_ms=now_ms, live=live
        )
    print(json.dumps(summary))


@contextmanager
def _store(redis_url: str | None) -> Iterator[tuple[RedisStore, asyncio.Runner]]:
    with resolve(redis_url, None) as server, asyncio.Runner() as runner:
        store = RedisStore(server.url, _REDIS_TIMEOUT_MS)
        try:
            yield store, runner
        finally:
            runner.run(store.close())


def _settings(options: argparse.Namespace) -> RefreshSettings:
    is_whole = options.users == "all" or (options.users is None and not options.user)
    return RefreshSettings(
        release_dir=options.release,
        out_dir=out_folder(options),
        is_whole=is_whole,
        num_users=options.users if isinstance(options.users, int) else 0,
        user_ids=tuple(options.user),
        paths=options.paths,
        width=options.width,
        seed=options.seed,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m offline", description="The offline tier.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    importing = commands.add_parser("import", help="fill the histories from a data folder")
    importing.add_argument("--data", type=Path, required=True, metavar="DIR")
    importing.add_argument(
        "--again", action="store_true", help="even if the store has these data already"
    )
    refreshing = commands.add_parser("refresh", help="think about users and make it live")
    _add_refresh_arguments(refreshing)
    add_gate_arguments(refreshing)
    add_live_commands(commands, _store)
    importing.set_defaults(run=_import)
    refreshing.set_defaults(run=_refresh)
    for command in (importing, refreshing):
        command.add_argument(
            "--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, else the embedded server"
        )
    return parser


def _add_refresh_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--users",
        type=_users,
        metavar="N|all",
        help="the first N by id, as a delta; or all (the default), as a new base",
    )
    parser.add_argument(
        "--user", action="append", default=[], metavar="ID", help="this user; may be repeated"
    )
    parser.add_argument(
        "--paths",
        type=_number(1, MAX_PATHS),
        default=DEFAULT_PATHS,
        metavar="T",
        help=f"thoughts a user (default {DEFAULT_PATHS})",
    )
    parser.add_argument(
        "--width",
        type=_number(1, _MAX_WIDTH),
        default=DEFAULT_WIDTH,
        metavar="M",
        help=f"prefixes a thought (default {DEFAULT_WIDTH})",
    )
    parser.add_argument("--seed", type=_number(0, 2**63), default=0, metavar="S")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where generations are kept (default: state folder)"
    )


def _users(text: str) -> int | str:
    return text if text == "all" else _number(1, 2**31)(text)


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number, {low}..{high}")
        return int(text)

    return parse
