"""Options shared by the commands, and their conversion to settings and a store."""

import argparse
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from models.errors import InvalidSettings
from models.store.embedded import resolve, state_folder
from models.store.namespace import add_namespace_argument, folder_name
from models.store.records import MAX_PATHS
from models.store.redis_store import RedisStore
from offline.settings import (
    DEFAULT_PATHS,
    DEFAULT_PREFIXES,
    DEFAULT_WIDTH,
    MAX_PREFIXES,
    MICRO_BATCH,
    RefreshSettings,
)

_MAX_WIDTH = 1024
_MAX_MICRO_BATCH = 2**16
_REDIS_TIMEOUT_MS = 10_000  # no user is waiting, and a loading server may take a while


class Parser(argparse.ArgumentParser):
    """A parser that raises InvalidSettings where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(f"{message} (see --help)")


@contextmanager
def open_store(options: argparse.Namespace) -> Iterator[tuple[RedisStore, asyncio.Runner]]:
    """Open the store of `add_store_arguments`, with the asyncio runner for its calls."""
    with resolve(options.redis, None) as server, asyncio.Runner() as runner:
        store = RedisStore(server.url, _REDIS_TIMEOUT_MS, namespace=options.namespace)
        try:
            yield store, runner
        finally:
            runner.run(store.close())


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, or the embedded server"
    )
    add_namespace_argument(parser)


def default_out(namespace: str) -> Path:
    """Return the folder of generations and archive of a namespace."""
    return state_folder(None) / folder_name("generations", namespace)


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of generations (default: state folder)"
    )


def add_generation_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--generation",
        type=number(1, 2**64 - 1),
        metavar="G",
        help="generation of the plan (default: the newest)",
    )


def add_user_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--users",
        type=_users,
        metavar="N|all",
        help="the first N users by id, as a delta; or all (default), as a new base",
    )
    parser.add_argument(
        "--user", action="append", default=[], metavar="ID", help="this user; may be repeated"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="read histories from a data folder, not the store"
    )
    add_attributes_argument(parser)
    unchanged = parser.add_mutually_exclusive_group()
    unchanged.add_argument(
        "--rethink", action="store_true", help="think again about unchanged users too"
    )
    unchanged.add_argument(
        "--keep-thoughts",
        action="store_true",
        help="carry users with an unchanged history over, though the reasoner has changed",
    )


def add_attributes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attributes",
        type=Path,
        metavar="DATA",
        help="data folder with users.parquet, for a reasoner that has learnt attributes of users",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--paths",
        type=number(1, MAX_PATHS),
        default=DEFAULT_PATHS,
        metavar="T",
        help=f"thoughts per user (default {DEFAULT_PATHS})",
    )
    parser.add_argument(
        "--width",
        type=number(1, _MAX_WIDTH),
        default=DEFAULT_WIDTH,
        metavar="M",
        help=f"prefixes per thought (default {DEFAULT_WIDTH})",
    )
    add_prefixes_argument(parser)
    parser.add_argument("--seed", type=number(0, 2**63), default=0, metavar="S")
    parser.add_argument(
        "--micro-batch",
        type=number(1, _MAX_MICRO_BATCH),
        default=MICRO_BATCH,
        metavar="N",
        help="users thought about at once; a GPU wants hundreds (default: %(default)s)",
    )


def add_prefixes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefixes",
        type=number(0, MAX_PREFIXES),
        default=DEFAULT_PREFIXES,
        metavar="N",
        help="prefixes of a record, from all that the night knows; 0: those of the thoughts alone "
        f"(default {DEFAULT_PREFIXES})",
    )


def add_price_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--price-per-hour", type=_price, metavar="P", help="price of this device, to show the cost"
    )


def add_dry_run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="think about 64 users, estimate the cost of the night, change nothing",
    )


def to_settings(options: argparse.Namespace) -> RefreshSettings:
    """Build settings from the options that the command has; others get their defaults."""
    given = {"users": None, "user": [], **vars(options)}
    is_whole = given["users"] == "all" or (given["users"] is None and not given["user"])
    return RefreshSettings(
        release_dir=options.release,
        out_dir=options.out or default_out(options.namespace),
        is_whole=is_whole,
        num_users=given["users"] if isinstance(given["users"], int) else 0,
        user_ids=tuple(given["user"]),
        paths=given.get("paths", DEFAULT_PATHS),
        width=given.get("width", DEFAULT_WIDTH),
        num_prefixes=given.get("prefixes", DEFAULT_PREFIXES),
        seed=given.get("seed", 0),
        micro_batch=given.get("micro_batch", MICRO_BATCH),
        data_dir=given.get("data"),
        attributes_dir=given.get("attributes") or given.get("data"),
        rethink=given.get("rethink", False),
        keep_thoughts=given.get("keep_thoughts", False),
        is_resumed=given.get("resume", False),
        price_per_hour=given.get("price_per_hour"),
    )


def number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number, {low}..{high}")
        return int(text)

    return parse


def _users(text: str) -> int | str:
    return text if text == "all" else number(1, 2**31)(text)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a price of 0 or more")
    return price
