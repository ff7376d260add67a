"""`python -m bench latency`: open-loop load on a real service process, up to its saturation.

The service has one core to itself; the generator and Redis share another. A load test: the records
are cheap ones (see `population`), and nothing here says how good an answer is.
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
_LONGER = 3  # times the seconds of a step, at half of saturation
_SETTLE_S = 0.5
_COLUMNS = (
    *("name", "p50_ms", "p99_ms", "p999_ms", "goodput", "share_personal", "cpu_ms", "finish_ms"),
    "lag_p99_ms",
)


class Cores(NamedTuple):
    service: int
    generator: int


@dataclass(frozen=True)
class Trial:
    """A running service and what it is asked."""

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
            f"{name:9} for {seconds:g} s: {row['goodput']:7.1f} good answers a second, "
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
    print(f"saturation: {saturation(rows)} requests/s; {full} with answers that are not degraded")
    if options.json:
        meta = _meta(options, release, mix, cores, rows)
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def run_sweep(trial: Trial, *, rates: Sequence[int] | None, seconds: float) -> list[Row]:
    """A row a rate: those given, or up to saturation; then half of saturation for longer.

    Raises StepFailedError unless the service answers from the records that it was given.
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
    """Two of the cores that we may use; from now on this process and its children keep to one.

    Raises InvalidSettings where there are not two, or where cores cannot be chosen.
    """
    if sys.platform != "linux":
        raise InvalidSettings(f"latency: processes keep to a core on Linux, not on {sys.platform}")
    available = sorted(os.sched_getaffinity(0))
    if len(available) < len(Cores._fields):
        raise InvalidSettings("latency: one core, expected one for the service and one for us")
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
    parser = argparse.ArgumentParser(prog="python -m bench latency", allow_abbrev=False)
    add = parser.add_argument
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--users", type=int, default=20_000, metavar="N", help="who have a record and ask")
    rates = "requests a second; default: up from 50 until goodput no longer follows"
    add("--rates", type=int, nargs="+", metavar="R", help=rates)
    add("--seconds", type=float, default=10.0, metavar="S", help="a rate; half of saturation 3x")
    add("--event-share", type=float, default=0.05, metavar="P", help="of the requests")
    add("--skew", type=float, default=0.8, metavar="A", help="user of rank r asks r ** -A as often")
    add("--seed", type=int, default=0, metavar="S")
    add("--json", type=Path, metavar="FILE", help="a table goes to FILE with .md beside it")
    return parser
