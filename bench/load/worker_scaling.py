"""`python -m bench workers`: requests that several workers answer, beside one.

Closed loop, in rounds that alternate between a service of one process and one of several workers,
on the same cores and the same store. Redis and the generator have a part of these cores too, which
lowers the ratio. The request budget is wide, so that no answer is `popular` for lack of time.
Records are made without a reasoner (see `population`).
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from bench.common.command_line import add_data, add_json, add_release, add_seed, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import HOST, ServiceProcess, StepFailedError
from bench.load.closed_loop import ClosedRun, run_closed_loop
from bench.load.http_connection import Address, render
from bench.load.population import populate
from bench.load.rate_sweep import histogram, percentile_ms
from models.errors import InvalidSettings
from models.release.release import Release
from models.store.embedded import attach

_MARK = b'"source":"personal"'
_LEAST_MARKED = 0.95  # share of personal answers; 1.5% of the users are held at lower rungs
_WARM_UP_S = 3.0
_START_S, _POLL_S = 60.0, 0.1
_ENVIRON = {"THINKAHEAD_REQUEST_BUDGET_MS": "10000", "THINKAHEAD_REDIS_TIMEOUT_MS": "5000"}
_COLUMNS = (
    *("name", "rate_per_s", "ratio", "p50_ms", "p99_ms"),
    *("service_us", "generator_us", "share_personal"),
)


@dataclass
class Arm:
    """One service, and its runs."""

    num_workers: int
    process: ServiceProcess
    runs: list[ClosedRun] = field(default_factory=list)
    service_s: float = 0.0  # CPU time of all its processes, in the runs


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    core = _first_core(options.workers)
    release = Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="workers-") as folder, attach(Path(folder)) as server:
        user_ids = populate(
            server.url, options.data, release, num_users=options.users, seed=options.seed
        )
        asked = [render("GET", f"/recommend/{quote(each, safe='')}") for each in user_ids]
        command = ["--release", str(options.release), "--redis", server.url]
        with ExitStack() as opened:
            arms = []
            for num in (1, options.workers):
                process = ServiceProcess(
                    [*command, "--workers", str(num)],
                    log=Path(folder) / f"{num}.log",
                    core=core if num == 1 else None,
                    environ=_ENVIRON,
                )
                arms.append(Arm(num, opened.enter_context(process)))
            _measure(arms, asked, options)
    rows = [_row(arm, arms[0]) for arm in arms]
    title = (
        f"closed loop, {options.connections} connections, {options.rounds} rounds of "
        f"{options.seconds:g} s each"
    )
    print_table(open_console(), title, rows, _COLUMNS)
    if options.json:
        meta = {
            "command": "workers",
            "release": f"{release.name}@{release.version}",
            "users": len(user_ids),
            "connections": options.connections,
            "cores": len(os.sched_getaffinity(0)),
        }
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def _measure(arms: Sequence[Arm], asked: Sequence[bytes], options: argparse.Namespace) -> None:
    for arm in arms:
        _await_workers(arm)
        _run(arm, asked, options, seconds=_WARM_UP_S)
        arm.runs.clear()
        arm.service_s = 0.0
    for _ in range(options.rounds):
        for arm in arms:
            _run(arm, asked, options, seconds=options.seconds)


def _run(arm: Arm, asked: Sequence[bytes], options: argparse.Namespace, *, seconds: float) -> None:
    before = arm.process.family_cpu_seconds()
    run = run_closed_loop(
        Address(HOST, arm.process.port),
        asked,
        num_connections=options.connections,
        seconds=seconds,
        mark=_MARK,
    )
    if run.num_marked < _LEAST_MARKED * len(run.latencies_s):
        share = run.num_marked / len(run.latencies_s)
        raise StepFailedError(f"{share:.1%} of the answers are personal: the service is overloaded")
    arm.service_s += arm.process.family_cpu_seconds() - before
    arm.runs.append(run)


def _await_workers(arm: Arm) -> None:
    """Return when all workers listen. Raises StepFailedError if they take too long."""
    arm.process.wait_until_ready()
    deadline = time.monotonic() + _START_S
    while arm.num_workers > 1 and _num_up(arm.process.url) < arm.num_workers:
        if time.monotonic() > deadline:
            raise StepFailedError(f"some workers do not start: {arm.process.last_line()}")
        time.sleep(_POLL_S)


def _num_up(url: str) -> int:
    page = httpx.get(f"{url}/metrics", timeout=_START_S).text
    return len(re.findall(r'^thinkahead_worker_up\{worker="\d+"\} 1\.0$', page, re.MULTILINE))


def _first_core(num_workers: int) -> int:
    """Return the core of the service of one process.

    Raises InvalidSettings if there are fewer cores than workers, or on another system than Linux.
    """
    if sys.platform != "linux":
        raise InvalidSettings(f"workers: needs Linux to pin processes to cores, not {sys.platform}")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 < num_workers <= len(cores):
        raise InvalidSettings(f"workers: {num_workers}, expected 2 to {len(cores)}, one a core")
    return cores[0]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("workers", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_data(parser)
    add("--workers", type=int, default=2, metavar="N", help="workers (default: %(default)s)")
    add("--users", type=int, default=2000, metavar="N", help="users with a record")
    # 16: with more requests at once a worker would give some of them `popular` answers.
    add("--connections", type=int, default=16, metavar="N", help="(default: %(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="runs of each service")
    add("--seconds", type=float, default=6.0, metavar="S", help="of each run")
    add_seed(parser)
    add_json(parser, has_markdown=True)
    return parser


def _row(arm: Arm, one: Arm) -> Row:
    latencies = histogram([each for run in arm.runs for each in run.latencies_s])
    rate, base = (statistics.median(run.rate for run in each.runs) for each in (arm, one))
    num_answers = sum(len(run.latencies_s) for run in arm.runs)
    return {
        "name": f"{arm.num_workers} worker{'s' if arm.num_workers > 1 else ''}",
        "workers": arm.num_workers,
        "rate_per_s": rate,
        "ratio": rate / base,
        "p50_ms": percentile_ms(latencies, 50),
        "p99_ms": percentile_ms(latencies, 99),
        "service_us": 1e6 * arm.service_s / num_answers,
        "generator_us": 1e6 * sum(run.generator_s for run in arm.runs) / num_answers,
        "share_personal": sum(run.num_marked for run in arm.runs) / num_answers,
        "answers": num_answers,
    }
