"""`python -m bench chaos`: measure the promises under faults (R1 to R10) on real processes.

Each promise has one scenario, which starts from nothing. With --json the results are merged into
the file of earlier runs, so that one scenario can be measured again. A broken promise is exit 1.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.table import Table

from bench.chaos.findings import PROMISES, Finding, merge, promise_of
from bench.chaos.world import Conditions
from bench.common.command_line import add_json, add_release, add_seed, make_parser
from bench.common.results import Row, open_console, write_json, write_markdown
from bench.load.latency import take_cores
from models.release.release import Release

SCENARIOS = {
    "R1": "bench.chaos.r1_redis_out",
    "R2": "bench.chaos.r2_failover",
    "R3": "bench.chaos.r3_overload",
    "R4": "bench.chaos.r4_stop",
    "R5": "bench.chaos.r5_flip",
    "R6": "bench.chaos.r6_killed_night",
    "R7": "bench.chaos.r7_foreign_records",
    "R10": "bench.chaos.r10_start",
}
_COLUMNS = ("name", "promise", "figure", "holds", "command")
_LOGGED_ERROR = re.compile(r".*\b(?:ERROR|CRITICAL)\b|[\w.]+(?:Error|Exception|Group)\b")
_MAX_ERRORS = 10
_TITLE = "promises under faults"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    cores, release = take_cores(), Release.load(options.release)
    rows: list[Row] = []
    for name in options.only or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            conditions = Conditions(
                release=release,
                folder=Path(folder),
                core=cores.service,
                rate=options.rate,
                seed=options.seed,
                is_quick=options.quick,
            )
            finding: Finding = import_module(SCENARIOS[name]).measure(conditions)
            _print_errors(Path(folder))
        rows += finding.rows(is_quick=options.quick)
        _merge_results(options, rows)
    fresh = {promise_of(row) for row in rows}
    return int(any(row.get("holds") == "NO" for row in rows if promise_of(row) in fresh))


def _print_errors(folder: Path) -> None:
    """Print errors from the services' logs, before their folder is deleted."""
    for log in sorted(folder.rglob("service-*.log")):
        lines = log.read_text(errors="replace").splitlines()
        found = [line for line in lines if _LOGGED_ERROR.match(line)]
        for line in list(dict.fromkeys(found))[:_MAX_ERRORS]:
            print(f"{log.relative_to(folder)}: {line}")


def _merge_results(options: argparse.Namespace, fresh: Sequence[Row]) -> None:
    """Print and write the results so far; a scenario takes minutes, and the next may fail."""
    rows = merge(options.json, [*fresh, *_read_soak(options.json)])
    promises = [row for row in rows if row["name"] in PROMISES]
    _print([row for row in promises if promise_of(row) in {promise_of(each) for each in fresh}])
    if options.json:
        meta = {
            "command": "chaos",
            "release": str(options.release),
            "rate": options.rate,
            "seed": options.seed,
        }
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), _TITLE, meta, promises, _COLUMNS)


def _read_soak(file: Path | None) -> list[Row]:
    """Return the rows of R9 from `soak.json` beside the file: `bench soak` measures it."""
    if file is None or not (soak := file.with_name("soak.json")).exists():
        return []
    found: list[Row] = json.loads(soak.read_text())["rows"]
    return found


def _print(promises: Sequence[Row]) -> None:
    table = Table(title=_TITLE, title_justify="left")
    for column in ("name", "holds", "figure"):
        table.add_column(column)
    for row in promises:
        table.add_row(str(row["name"]), str(row["holds"]), str(row["figure"]).replace("; ", "\n"))
    open_console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("chaos", __doc__)
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        choices=list(SCENARIOS),
        metavar="R",
        help="scenarios to run, as R1 R4 (default: all)",
    )
    add_release(parser)
    add("--rate", type=int, default=200, metavar="R", help="requests/s during a fault")
    add_seed(parser)
    add("--quick", action="store_true", help="short runs that only show that the scenarios work")
    add_json(parser, has_markdown=True)
    return parser
