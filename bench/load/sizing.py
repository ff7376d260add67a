"""`python -m bench sizing`: size and cost of a deployment for a number of users.

Rates and sizes come from bench/results, so that a new measurement changes the sizing. Everything
else is assumed: an option with a default, printed as `assumed`.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.common.command_line import make_parser
from models.errors import InvalidInput

RESULTS = Path(__file__).parents[1] / "results"
USERS = (1e6, 100e6, 400e6)
_MIN_PODS = 3  # one per zone
_MIN_SHARDS = 3  # of a Redis Cluster
_HOURS_A_MONTH = 730
_GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """Figures from bench/results."""

    saturation_rps: float  # requests per second of one service process on one core
    record_bytes: float  # of a user in Redis, 32 prefixes
    thoughts_bytes: float  # of a user in Redis, five thoughts
    history_bytes: float  # of a user in Redis, nine events
    service_mb: float  # memory of a service after its start
    think_users_per_s: float  # of one core, with the bundled reasoner
    load_s: float  # for a million users, by one process; also the two below
    verify_s: float
    activate_s: float


@dataclass(frozen=True)
class Assumed:
    """Figures that were not measured, or that the operator chooses."""

    requests_per_user: float = 5.0  # per day
    peak: float = 3.0  # requests in the busiest second over the mean
    load_share: float = 0.5  # planned share of a pod's saturation; the p99 was measured at half
    cache_mb: float = 500.0  # memory that a warm pod adds: encoded histories, copies, all other
    generations: float = 4  # in Redis at a time: the live one, `--keep 2` before it, one loading
    replicas: float = 1  # copies of each Redis shard besides the master
    shard_gib: float = 24.0  # data per Redis shard
    headroom: float = 1.5  # Redis memory over its data: fragmentation, buffers and forks
    shard_rps: float = 20_000.0  # requests per second of one Redis shard
    active_share: float = 0.3  # share of users that the night thinks about: new events
    night_hours: float = 6.0  # for thinking
    load_hours: float = 6.0  # for loading, verifying and activating
    gpu_tokens_per_s: float = 10_000.0  # one GPU of 80 GB, a reasoner of 1.7B on vLLM
    gpu_tokens_per_user: float = 1_500.0  # five thoughts of 150 tokens, the prompt once, beams
    core_hour: float = 0.04  # price; also the two below
    gib_hour: float = 0.005
    gpu_hour: float = 2.5


@dataclass(frozen=True)
class Size:
    """One deployment.

    Bytes are of Redis' data, before replicas and headroom. Costs are per month.
    """

    users: float
    peak_rps: float
    pods: int
    pod_gib: float
    bytes_per_user: float
    redis_gib: float
    shards: int
    cells: int
    think_cores: int
    gpus: int
    service_month: float
    redis_month: float
    night_month: float
    gpu_night_month: float


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    assumed = Assumed(**{field.name: getattr(options, field.name) for field in fields(Assumed)})
    measured = read_measured(options.results)
    asked = options.users or USERS
    if options.rps and len(asked) > 1:
        raise InvalidInput("--rps: needs exactly one --users")
    sizes = [size(users, measured, assumed, peak_rps=options.rps) for users in asked]
    print(render(sizes))
    print()
    print(render_basis(measured, assumed))
    return 0


def read_measured(results: Path = RESULTS) -> Measured:
    """Read the results. Raises InvalidInput if they are missing or have another shape."""
    latency, million, refresh, footprint = (
        _read(results / f"{name}.json") for name in ("latency", "million", "refresh", "footprint")
    )
    try:
        num_millions = million["meta"]["users"] / 1e6
        return Measured(
            saturation_rps=latency["meta"]["saturation_rps"],
            record_bytes=_row(footprint, "record_32")["bytes_per_user"],
            thoughts_bytes=_row(footprint, "thoughts_5")["bytes_per_user"],
            history_bytes=_row(footprint, "history_9")["bytes_per_user"],
            service_mb=_row(footprint, "service")["rss_mb"],
            think_users_per_s=_row(refresh, "transformers")["users_per_s"],
            load_s=_row(million, "load")["seconds"] / num_millions,
            verify_s=_row(million, "verify")["seconds"] / num_millions,
            activate_s=_row(million, "activate")["seconds"] / num_millions,
        )
    except KeyError as exc:
        raise InvalidInput(f"{results}: no {exc} where it was expected") from exc


def size(users: float, found: Measured, given: Assumed, *, peak_rps: float | None = None) -> Size:
    """Compute a deployment by the formulas of deploy/README.md."""
    rps = peak_rps or users * given.requests_per_user * given.peak / 86_400
    pods = max(_MIN_PODS, math.ceil(rps / (found.saturation_rps * given.load_share)))
    pod_gib = math.ceil((found.service_mb + given.cache_mb) / 512) / 2  # in halves of a GiB
    a_user = given.generations * (found.record_bytes + found.thoughts_bytes) + found.history_bytes
    data_gib = users * a_user / _GIB
    by_bytes, by_rate = data_gib / given.shard_gib, rps / given.shard_rps
    shards = max(_MIN_SHARDS, math.ceil(max(by_bytes, by_rate)))
    servers = 1 + given.replicas
    one_process_s = (found.load_s + found.verify_s + found.activate_s) * users / 1e6
    due = users * given.active_share
    night_s = given.night_hours * 3600
    think_cores = math.ceil(due / found.think_users_per_s / night_s)
    gpus = math.ceil(due * given.gpu_tokens_per_user / given.gpu_tokens_per_s / night_s)
    redis_hour = servers * (shards * given.core_hour + data_gib * given.headroom * given.gib_hour)
    nights = _HOURS_A_MONTH / 24
    return Size(
        users=users,
        peak_rps=rps,
        pods=pods,
        pod_gib=pod_gib,
        bytes_per_user=a_user,
        redis_gib=data_gib,
        shards=shards,
        cells=math.ceil(one_process_s / (given.load_hours * 3600)),
        think_cores=think_cores,
        gpus=gpus,
        service_month=_HOURS_A_MONTH * pods * (given.core_hour + pod_gib * given.gib_hour),
        redis_month=_HOURS_A_MONTH * redis_hour,
        night_month=nights * given.night_hours * think_cores * given.core_hour,
        gpu_night_month=nights * given.night_hours * gpus * given.gpu_hour,
    )


def render(sizes: Sequence[Size]) -> str:
    """Return a Markdown table with one column per deployment."""
    lines = {
        "users": [f"{each.users / 1e6:,g}M" for each in sizes],
        "requests/s at peak": [f"{each.peak_rps:,.0f}" for each in sizes],
        "service pods (1 core each)": [f"{each.pods:,}" for each in sizes],
        "memory per pod, GiB": [f"{each.pod_gib:g}" for each in sizes],
        "Redis bytes per user": [f"{each.bytes_per_user:,.0f}" for each in sizes],
        "Redis data, GiB": [f"{each.redis_gib:,.1f}" for each in sizes],
        "Redis shards": [f"{each.shards:,}" for each in sizes],
        "cells": [f"{each.cells:,}" for each in sizes],
        "cores for the night, bundled reasoner": [f"{each.think_cores:,}" for each in sizes],
        "GPUs for the night, 1.7B reasoner (assumed)": [f"{each.gpus:,}" for each in sizes],
        "service, $ per month": [f"{each.service_month:,.0f}" for each in sizes],
        "Redis, $ per month": [f"{each.redis_month:,.0f}" for each in sizes],
        "night on cores, $ per month": [f"{each.night_month:,.0f}" for each in sizes],
        "or on GPUs, $ per month (assumed)": [f"{each.gpu_night_month:,.0f}" for each in sizes],
    }
    (heads, *rows) = [[name, *values] for name, values in lines.items()]
    sides = ["---", *["---:"] * len(sizes)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows))


def render_basis(found: Measured, given: Assumed) -> str:
    """Return the figures behind the table, one per line."""
    return "\n".join(
        f"- {kind} `{field.name}`: {getattr(values, field.name):,.6g}"
        for kind, values in (("measured", found), ("assumed", given))
        for field in fields(values)
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{file}: {exc}") from exc
    return content


def _row(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the first row of this name. Raises KeyError with the name."""
    found = (row for row in report["rows"] if row["name"] == name)
    row: dict[str, Any] | None = next(found, None)
    if row is None:
        raise KeyError(name)
    return row


def _users(text: str) -> float:
    """Parse a number of users, which may be written as `400e6`."""
    number = _positive(text)
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of users")
    return number


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return number


def _not_negative(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("sizing", __doc__)
    add = parser.add_argument
    add("--users", type=_users, action="append", metavar="N", help="may be repeated")
    add("--rps", type=_positive, metavar="R", help="requests/s at peak (default: from users)")
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="(default: %(default)s)")
    for field in fields(Assumed):
        kind = _not_negative if field.name == "replicas" else _positive
        flag = f"--{field.name.replace('_', '-')}"
        add(
            flag,
            type=kind,
            default=field.default,
            metavar="X",
            help=f"(default: {field.default:g})",
        )
    return parser
