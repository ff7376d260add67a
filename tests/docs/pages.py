"""Pages of the documentation and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests import ROOT

PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "deploy" / name for name in ("README.md", "METRICS.md")),
    *(ROOT / name / "README.md" for name in ("clients/python", "examples")),
    *sorted((ROOT / "data").glob("*/README.md")),
)
GENERATED = ROOT / "docs" / "files.md"  # from docstrings
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    page: str  # path from the root of the repository
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def read(page: Path) -> str:
    return page.read_text()


def blocks(language: str) -> list[Block]:
    """Return the fenced blocks of a language on all pages."""
    return [
        Block(name_of(page), *found)
        for page in PAGES
        for found in _FENCE.findall(read(page))
        if found[0] == language
    ]


def lines(page: Path) -> list[str]:
    """Return the indented lines of a page: commands, mostly."""
    return _INDENTED.findall(_FENCE.sub("", read(page)))


def inline(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return _INLINE.findall(_FENCE.sub("", read(page)))


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of every command that runs `program`, without its environment."""
    for page in PAGES:
        for line in [*lines(page), *inline(page)]:
            command = re.sub(r"^[\d* ]+ cd \S+ && |^taskset -c \d+ |^[A-Z_]+=\S+ ", "", line)
            if command.startswith(program + " "):
                yield name_of(page), shlex.split(command, comments=True)
