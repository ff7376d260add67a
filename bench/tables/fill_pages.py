"""`python -m bench tables [--check] [PAGE...]`: write the results tables of README and docs.

A page holds a table between two comments, which no reader sees:

    <!-- table: quality -->
    <!-- end -->

Text around them is left as it is.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from bench.tables.chosen import TABLES
from models.errors import InvalidInput

_PLACE = re.compile(r"(?<=^<!-- table: )(\S+)( -->\n)(.*?)(?=^<!-- end -->$)", re.M | re.S)
_OPENING = re.compile(r"^<!-- table:", re.M)
_RESULTS = Path("bench/results")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:20} {table.source}.json" for name, table in TABLES.items()))
        return 0
    stale = []
    for page in options.pages or find_pages(Path()):
        text = page.read_text()
        fresh = fill_page(page, text, options.results)
        if fresh == text:
            continue
        stale.append(page)
        if not options.check:
            page.write_text(fresh)
    for page in stale:
        print(f"{page}: {'differs from the results' if options.check else 'written'}")
    return int(options.check and bool(stale))


def find_pages(root: Path) -> list[Path]:
    """Return README.md and the pages below docs that hold a table, in order of their names."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in pages if page.exists() and _OPENING.search(page.read_text())]


def fill_page(page: Path, text: str, results_dir: Path) -> str:
    """Return the page's text with fresh tables.

    Raises InvalidInput for an unknown table and for a table without its end.
    """

    def fill(place: re.Match[str]) -> str:
        if place[1] not in TABLES:
            raise InvalidInput(f"{page}: no table {place[1]!r}; there are {', '.join(TABLES)}")
        return f"{place[1]}{place[2]}\n{TABLES[place[1]].render(results_dir)}\n\n"

    fresh, num_filled = _PLACE.subn(fill, text)
    if num_filled != len(_OPENING.findall(text)):
        raise InvalidInput(f"{page}: every `<!-- table: NAME -->` needs a line `<!-- end -->`")
    return fresh


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench tables",
        description="Write the results tables of README and docs from the files in bench/results.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("pages", nargs="*", type=Path, metavar="PAGE", help="default: README.md and docs")
    add("--check", action="store_true", help="write nothing; exit with 1 if a page differs")
    add("--list", action="store_true", help="print the names of the tables and their files")
    add("--results", type=Path, default=_RESULTS, metavar="DIR", help="(default: %(default)s)")
    return parser
