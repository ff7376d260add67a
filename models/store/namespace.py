"""The namespace of a command's keys, so that one server holds several data sets."""

import argparse
import os
import re
import zlib
from pathlib import Path

VARIABLE = "THINKAHEAD_NAMESPACE"
PATTERN = "[a-z0-9][a-z0-9_-]{0,31}"


def add_namespace_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        default=os.environ.get(VARIABLE, ""),
        metavar="NAME",
        help=f"data set whose keys are meant (default: {VARIABLE}, or none)",
    )


def namespace_of(data: str | Path) -> str:
    """Return the namespace of a data folder or file: its name, but none for the bundled data."""
    path = Path(data).absolute()
    if path.parts[-2:] == ("data", "beauty"):
        return ""
    name = re.sub("[^a-z0-9]+", "-", path.name.lower()).strip("-")[:32]
    return name or f"data-{zlib.crc32(path.name.encode()):08x}"


def folder_name(name: str, namespace: str) -> str:
    """Return the name of a folder below the state folder that belongs to a namespace."""
    return f"{name}-{namespace}" if namespace else name
