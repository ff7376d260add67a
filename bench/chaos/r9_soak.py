"""`python -m bench soak`: memory of a service under an even load for half an hour (R9).

The caches of a service are bounded; the test looks for growth beyond them. All caches are therefore
full at the first sample. Every history is full from the start. The cache of encoded histories has
room for fewer users than there are: at its default of 256 MB and one event per second, it would
still grow for twenty minutes. Most users have asked before the first sample. The slope is fitted to
the samples after a sixth of the time.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.chaos.findings import Bound, Finding, num_failed, p99_ms, shares, statuses
from bench.chaos.world import Conditions, World, open_world
from bench.common.command_line import add_release, add_seed, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import ServiceProcess
from bench.load.latency import take_cores
from bench.load.load_stream import LoadStream
from models.release.release import Release
from models.store.events import HISTORY_LIMIT

_PERIOD_S = 5.0
_FILL_RATE, _FILL_S = 200, 120.0  # 700 questions of 500 strangers, 1,200 events
_SMALL_CACHE = {"THINKAHEAD_HISTORY_CACHE_MB": "16"}
_WARM_UP_SHARE = 1 / 6  # share of samples not in the fit
_SLOPE_MB = 1.0
_TEN_MINUTES_S = 600.0
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
_COLUMNS = ("name", "minutes", "answers", "failed", "p99_ms", "rss_mb", "slope_mb", "holds")


class Sample(NamedTuple):
    """State of the service at one time."""

    seconds: float  # since the first sample
    rss_mb: float  # resident memory
    answers: int  # so far


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    cores, release = take_cores(), Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        conditions = Conditions(
            release=release,
            folder=Path(folder),
            core=cores.service,
            rate=options.rate,
            seed=options.seed,
            is_quick=False,
        )
        with open_world(conditions, "R9", history=HISTORY_LIMIT) as (world, _):
            samples, load = soak(world, minutes=options.minutes)
    rows = describe(samples, load).rows(is_quick=False)
    rows[0] = {**rows[0], "command": "python -m bench soak"}
    curve = sparkline([sample.rss_mb for sample in samples])
    title = f"{options.minutes:g} minutes at {options.rate} requests/s"
    print_table(open_console(), title, rows[1:], _COLUMNS)
    print(curve)
    if options.json:
        meta = {"command": "soak", "release": str(options.release), "rate": options.rate}
        write_json(options.json, meta, rows)
        meta |= {"curve": f"`{curve}`", "rss_mb": f"{samples[0].rss_mb} to {samples[-1].rss_mb}"}
        write_markdown(options.json.with_suffix(".md"), title, meta, rows[1:], _COLUMNS)
        write_csv(options.json.with_suffix(".csv"), samples)
    return int(rows[0]["holds"] == "NO")


def soak(world: World, *, minutes: float) -> tuple[list[Sample], LoadStream]:
    """Fill the caches, then take samples every five seconds and one at the end."""
    samples: list[Sample] = []
    with world.service(environ=_SMALL_CACHE) as service:
        with world.load(service, rate=_FILL_RATE):
            time.sleep(_FILL_S)
        with world.load(service) as load:
            _watch(service, load, samples, minutes)
    return samples, load


def _watch(
    service: ServiceProcess, load: LoadStream, samples: list[Sample], minutes: float
) -> None:
    began_at = time.monotonic()
    ends_at = began_at + 60 * minutes
    while (now := time.monotonic()) < ends_at:
        samples.append(_sample(service, load, now - began_at))
        time.sleep(min(_PERIOD_S, max(ends_at - now, 0.0)))
    samples.append(_sample(service, load, time.monotonic() - began_at))


def _sample(service: ServiceProcess, load: LoadStream, seconds: float) -> Sample:
    return Sample(round(seconds, 1), round(service.rss_mb(), 2), len(load.replies))


def describe(samples: Sequence[Sample], load: LoadStream) -> Finding:
    slope_mb, replies = slope(samples), load.replies
    bounds = [
        Bound("slope MB per 10 min", slope_mb, "<=", _SLOPE_MB),
        Bound("failed", num_failed(replies), "==", 0),
    ]
    row: Row = {
        "name": "soak",
        "minutes": samples[-1].seconds / 60,
        "answers": len(replies),
        "failed": num_failed(replies),
        "p99_ms": p99_ms(replies),
        "rss_mb": samples[-1].rss_mb,
        "slope_mb": slope_mb,
        "holds": "yes" if all(bound.holds for bound in bounds) else "NO",
        **statuses(replies),
        **shares(replies),
    }
    return Finding("R9", bounds, [row], replies)


def slope(samples: Sequence[Sample]) -> float:
    """Return the growth in MB per ten minutes, by least squares, without the warm-up."""
    kept = samples[int(_WARM_UP_SHARE * len(samples)) :]
    seconds = np.array([sample.seconds for sample in kept])
    rss_mb = np.array([sample.rss_mb for sample in kept])
    return float(np.polyfit(seconds, rss_mb, 1)[0]) * _TEN_MINUTES_S


def sparkline(values: Sequence[float]) -> str:
    """Draw values as at most 60 bars; the lowest bar is the lowest value."""
    parts = np.array_split(np.array(values), min(_WIDTH, len(values)))
    means = np.array([part.mean() for part in parts])
    spread = max(float(means.max() - means.min()), 1e-9)
    return "".join(_BARS[int((len(_BARS) - 1) * (mean - means.min()) / spread)] for mean in means)


def write_csv(file: Path, samples: Sequence[Sample]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Sample._fields)
        writer.writerows(samples)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("soak", __doc__)
    add = parser.add_argument
    add_release(parser)
    add("--minutes", type=float, default=30.0, metavar="M", help="(default: %(default)s)")
    add("--rate", type=int, default=20, metavar="R", help="requests/s")
    add_seed(parser)
    add(
        "--json", type=Path, metavar="FILE", help="results; writes .md and .csv (samples) beside it"
    )
    return parser
