"""Parser and options shared by the commands of `python -m bench`."""

import argparse
from pathlib import Path

from models.program import program


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser that accepts no abbreviated options; `description` is for --help."""
    return argparse.ArgumentParser(
        prog=f"{program('bench')} {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        type=Path,
        default=Path("releases/beauty"),
        metavar="DIR",
        help="release to measure (default: %(default)s)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/beauty"),
        metavar="DIR",
        help="data folder of the release (default: %(default)s)",
    )


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Add --data for a command that refuses data that the release was not trained on."""
    add_data(parser)
    parser.add_argument(
        "--other-data",
        action="store_true",
        help="measure the release also on data that it was not trained on",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed (default: %(default)s)"
    )


def add_json(parser: argparse.ArgumentParser, *, has_markdown: bool = False) -> None:
    """Add --json FILE; with `has_markdown`, the command also writes FILE with the suffix .md."""
    beside = ", and a table as .md beside it" if has_markdown else ""
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"write the results as JSON{beside}"
    )
