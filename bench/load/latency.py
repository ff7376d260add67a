"""`python -m bench latency`: open-loop load on a real service process, up to its saturation.

The service has one core alone; the generator and Redis share another. Records are made without a
reasoner (see `population`), so the quality of the answers means nothing.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from bench.common.command_line import add_data, add_json, add_release, add_seed, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import HOST, ServiceProcess, StepFailedError
from bench.load.arrivals import Mix, draw_requests
from bench.load.http_connection import Address
from bench.load.open_loop import NUM_CONNECTIONS, run_open_loop
from bench.load.population import NUM_PREFIXES, populate
from bench.load.rate_sweep import BUDGET_MS, FOLLOWS, Spent, describe, next_rate, saturation
from models.errors import InvalidSettings
from models.release.release import Release
from models.store.embedded import attach

_FIRST_RATE = 50
_WARM_UP_RATE = 20
_WARM_UP_S = 3.0
_LONGER = 3  # factor for the seconds of the run at half of saturation
_SETTLE_S = 0.5
_COLUMNS = (
    *("name", "p50_ms", "p99_ms", "p999_ms", "goodput", "share_personal", "cpu_ms", "finish_ms"),
    "lag_p99_ms",
)


class Cores(NamedTuple):
    """Numbers of CPU cores."""

    service: int
    generator: int  # also Redis


@dataclass(frozen=True)
class Trial:
    """A running service and the requests for it."""

    service: ServiceProcess
    mix: Mix
    seed: int
    console: Console

    def measure(self, name: str, *, rate: int, seconds: float) -> Row:
        requests = draw_requests(self.mix, rate=rate, seconds=seconds, seed=self.seed)
        service_s, generator_s = self.service.cpu_seconds(), time.process_time()
        outcomes = run_open_loop(Address(HOST, self.service.port), requests)
        spent = Spent(
            service_s=self.service.cpu_seconds() - service_s,
            generator_s=time.process_time() - generator_s,
        )
        row = describe(name, outcomes, rate=rate, seconds=seconds, spent=spent)
        self.console.print(
            f"{name:9} for {seconds:g} s: {row['goodput']:7.1f} good answers/s, "
            f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
        )
        time.sleep(_SETTLE_S)
        return row


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    cores = take_cores()
    release = Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="latency-") as folder, attach(Path(folder)) as server:
        user_ids = populate(
            server.url, options.data, release, num_users=options.users, seed=options.seed
        )
        mix = Mix(user_ids, release.catalog.item_ids, options.skew, options.event_share)
        command = ["--release", str(options.release), "--redis", server.url]
        log = Path(folder) / "service.log"
        with ServiceProcess(command, log=log, core=cores.service) as service:
            service.wait_until_ready()
            trial = Trial(service, mix, options.seed, open_console())
            rows = run_sweep(trial, rates=options.rates, seconds=options.seconds)
    title = f"open loop, latencies from the intended send time, {len(user_ids):,} users"
    print_table(open_console(), title, rows, _COLUMNS)
    full = saturation(rows, "full_goodput")
    print(f"saturation: {saturation(rows)} requests/s; {full} without degraded answers")
    if options.json:
        meta = _meta(options, release, mix, cores, rows)
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def run_sweep(trial: Trial, *, rates: Sequence[int] | None, seconds: float) -> list[Row]:
    """Return one row per rate, and a longer run at half of saturation.

    Args:
        rates: to measure; None searches for saturation.

    Raises:
        StepFailedError: no answer of the warm-up came from a record.
    """
    warm = trial.measure("warm_up", rate=_WARM_UP_RATE, seconds=min(_WARM_UP_S, seconds))
    if not warm["share_personal"]:
        raise StepFailedError("no answer was personal: the service does not see the records")
    rows = []
    if rates:
        rows = [trial.measure(f"rate_{rate}", rate=rate, seconds=seconds) for rate in rates]
    else:
        while (rate := next_rate(rows, first=_FIRST_RATE)) is not None:
            rows.append(trial.measure(f"rate_{rate}", rate=rate, seconds=seconds))
    rows.sort(key=lambda row: row["rate"])
    if half := saturation(rows) // 2:
        rows.append(trial.measure("half", rate=half, seconds=_LONGER * seconds))
    return rows


def take_cores() -> Cores:
    """Choose two of the available cores, and pin this process and its children to the second.

    Raises InvalidSettings if there are fewer than two, or on another system than Linux.
    """
    if sys.platform != "linux":
        raise InvalidSettings(f"latency: needs Linux to pin processes to cores, not {sys.platform}")
    available = sorted(os.sched_getaffinity(0))
    if len(available) < len(Cores._fields):
        raise InvalidSettings("latency: one core, expected two: service and generator")
    cores = Cores(*available[: len(Cores._fields)])
    os.sched_setaffinity(0, {cores.generator})
    return cores


def _meta(
    options: argparse.Namespace, release: Release, mix: Mix, cores: Cores, rows: Sequence[Row]
) -> dict[str, Any]:
    return {
        "command": "latency",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "seed": options.seed,
        "users": len(mix.user_ids),
        "skew": mix.skew,
        "event_share": mix.event_share,
        "num_items": mix.num_items,
        "records": f"the online model's own {NUM_PREFIXES} best prefixes; no reasoner",
        "connections": NUM_CONNECTIONS,
        "service_core": cores.service,
        "generator_core": cores.generator,
        "budget_ms": BUDGET_MS,
        "saturation_is": f"highest rate of which at least {FOLLOWS:.0%} are answered in time",
        "saturation_rps": saturation(rows),
        "full_saturation_rps": saturation(rows, "full_goodput"),  # and not degraded
    }


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("latency", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_data(parser)
    add(
        "--users",
        type=int,
        default=20_000,
        metavar="N",
        help="users with a record, in the requests",
    )
    rates = "requests/s (default: search for saturation, from 50 on)"
    add("--rates", type=int, nargs="+", metavar="R", help=rates)
    add(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="per rate; 3 times at half of saturation",
    )
    add("--event-share", type=float, default=0.05, metavar="P", help="share of events")
    add("--skew", type=float, default=0.8, metavar="A", help="user of rank r has weight r ** -A")
    add_seed(parser)
    add_json(parser, has_markdown=True)
    return parser
