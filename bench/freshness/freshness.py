"""`python -m bench freshness`: seconds from an event to the answers that know of it, under load.

Two services and a learner run as a user starts them, on all cores. One service has an even load of
recommendations. Events are posted beside it, and one new item is fed. An event is in the counts or
the weights when both services answer with a version that holds it. Records are made without a
reasoner (see `population`). Exit code 1 if a bar does not hold.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.command_line import add_data, add_json, add_release, add_seed, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import HOST
from bench.freshness.event_delays import Seen, count_delays, weight_delays
from bench.freshness.fresh_watch import Plan, Watched, watch
from bench.freshness.live_system import LiveSystem, open_system
from bench.freshness.live_versions import Entry, LiveVersions, Place
from bench.freshness.slice_lines import SliceLine, fate_of
from bench.freshness.steady_load import Load, Offered, loaded
from bench.load.arrivals import Mix
from bench.load.http_connection import Address
from bench.load.population import NUM_PREFIXES, populate
from bench.load.rate_sweep import BUDGET_MS
from models.errors import InvalidSettings
from models.release.release import Release
from models.store.contract import BEGINNING, order_of
from models.store.embedded import attach
from models.store.redis_store import RedisStore

COUNTS_BAR_S, WEIGHTS_BAR_S, ITEM_BAR_S = 5.0, 60.0, 60.0
_TAIL_S = WEIGHTS_BAR_S + 15.0  # load and events go on until the last measured event is due
_TIMEOUT_MS = 10_000
_PAGE = 5000  # entries of the log
_DELAYS = ("name", "events", "seen", "dropped", "p50_s", "p99_s", "max_s", "bar_s", "holds")
_REQUESTS = (
    *("name", "requests", "p50_ms", "p95_ms", "p99_ms", "max_ms", "in_budget", "failed"),
    "holds",
)


@dataclass(frozen=True)
class Run:
    """Record of one run."""

    watched: Watched
    offered: Offered
    lines: Sequence[SliceLine]
    entries: Mapping[str, Entry]  # of the log, by event id
    warm_up_s: float  # from the first new item to its catalog
    cores: Mapping[str, float]  # that processes took: service_0, service_1, learner


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if min(options.seconds, options.rate, options.events_rate, options.users) <= 0:
        raise InvalidSettings("--seconds, --rate, --events-rate and --users: expected above 0")
    if options.text_vectors is not None and not options.text_vectors.is_file():
        raise InvalidSettings(f"--text-vectors {options.text_vectors}: no such file")
    release = Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="freshness-") as name, attach(Path(name)) as server:
        folder = Path(name)
        user_ids = populate(
            server.url, options.data, release, num_users=options.users, seed=options.seed
        )
        with open_system(
            folder,
            release=options.release,
            data=options.data,
            redis_url=server.url,
            asked=user_ids[0],
            text_vectors=options.text_vectors,
        ) as system:
            run = measure(system, server.url, release, user_ids, options)
            rows = describe(run, system.versions)
    title = f"{options.rate} requests/s and {options.events_rate:g} events/s, beside a learner"
    console = open_console()
    print_table(console, title, [row for row in rows if "events" in row], _DELAYS)
    print_table(console, title, [row for row in rows if "requests" in row], _REQUESTS)
    if options.json:
        meta, columns = _meta(options, release, run), dict.fromkeys((*_DELAYS, *_REQUESTS))
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, list(columns))
    return int(any(row["holds"] == "NO" for row in rows))


def measure(
    system: LiveSystem,
    redis_url: str,
    release: Release,
    user_ids: Sequence[str],
    options: argparse.Namespace,
) -> Run:
    """Warm up, then watch events under load."""
    warm_up_s = system.warm_up()
    whole_s = options.seconds + _TAIL_S
    mix = Mix(user_ids, release.catalog.item_ids, event_share=0.0)
    address = Address(HOST, system.services[0].port)
    plan = Plan(
        user_ids, release.catalog, options.events_rate, options.seconds, _TAIL_S, options.seed
    )
    before = _cpu_seconds(system)
    with loaded(Load(address, mix, options.rate, whole_s, options.seed)) as end_of_load:
        watched = watch(system, plan)
        offered = end_of_load()
    spent = {name: after - before[name] for name, after in _cpu_seconds(system).items()}
    entries = asyncio.run(_read_entries(redis_url))
    cores = {name: round(seconds / whole_s, 3) for name, seconds in spent.items()}
    return Run(watched, offered, system.lines(), entries, warm_up_s, cores)


def describe(run: Run, versions: LiveVersions) -> list[Row]:
    """Return the rows of delays, then those of requests."""
    watched = run.watched
    processes = [
        [Seen(at, versions.place(version), versions.last_counted(version)) for at, version in each]
        for each in watched.answered
    ]
    fates: dict[str, Place | str] = {}
    for event in watched.posted:
        if (entry := run.entries.get(event.event_id)) is not None:
            fate = fate_of(entry, run.lines)
            fates[event.event_id] = fate if isinstance(fate, str) else versions.place(fate)
    return [
        count_delays(watched.posted, run.entries, processes).row("counts", bar_s=COUNTS_BAR_S),
        weight_delays(watched.posted, fates, processes).row("weights", bar_s=WEIGHTS_BAR_S),
        _item_row("item_fed", watched.fed_at, watched.recommended_at),
        _item_row("item_fifth_event", watched.fifth_at, watched.recommended_at),
        run.offered.tally.row("requests"),
        watched.posts.row("posts", is_bounded=False),
        watched.looks.row("looks", is_bounded=False),
    ]


def _item_row(name: str, since: float | None, until: float | None) -> Row:
    """Return how long a new item was waited for; 0 if it came before `since`."""
    if since is None or until is None:
        return {"name": name, "events": 1, "seen": 0, "bar_s": ITEM_BAR_S, "holds": "NO"}
    max_s = max(until - since, 0.0)
    holds = "yes" if max_s <= ITEM_BAR_S else "NO"
    return {
        "name": name,
        "events": 1,
        "seen": 1,
        "max_s": max_s,
        "bar_s": ITEM_BAR_S,
        "holds": holds,
    }


def _meta(options: argparse.Namespace, release: Release, run: Run) -> dict[str, Any]:
    answered = [[version for _, version in each] for each in run.watched.answered]
    outcomes = Counter(line.outcome for line in run.lines)
    return {
        "command": "freshness",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "seed": options.seed,
        "items": len(release.catalog),
        "users": options.users,
        "records": f"the online model's own {NUM_PREFIXES} best prefixes; no reasoner",
        "rate": options.rate,
        "events_rate": options.events_rate,
        "seconds": options.seconds,
        "tail_s": _TAIL_S,  # load and events went on, and were not measured
        "services": len(answered),
        "budget_ms": BUDGET_MS,
        "warm_up_s": round(run.warm_up_s, 1),
        "versions": min(len(set(each)) for each in answered),  # that every service answered with
        "bases": min(len({version.base for version in each}) for each in answered),
        "answers_without_one_release": run.watched.num_unlabelled,
        "slices": len(run.lines),
        **{f"slices_{outcome}": num for outcome, num in sorted(outcomes.items())},
        **{f"cores_{name}": cores for name, cores in run.cores.items()},
        "cores_generator": round(run.offered.cores, 3),
        "lag_p99_ms": run.offered.lag_p99_ms,  # of the generator
    }


def _cpu_seconds(system: LiveSystem) -> dict[str, float]:
    services = {f"service_{at}": each.cpu_seconds() for at, each in enumerate(system.services)}
    return {**services, "learner": system.learner.cpu_seconds()}


async def _read_entries(redis_url: str) -> dict[str, Entry]:
    """Return the places of all events in the log, by event id."""
    store, after = RedisStore(redis_url, _TIMEOUT_MS), BEGINNING
    entries: dict[str, Entry] = {}
    try:
        while True:
            page = await store.read_log(after, _PAGE)
            entries |= {each.event.event_id: order_of(each.entry) for each in page.events}
            if page.last == after:
                return entries
            after = page.last
    finally:
        await store.close()


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("freshness", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_data(parser)
    add("--seconds", type=float, default=200.0, metavar="S", help="measured (default: %(default)s)")
    add("--rate", type=int, default=200, metavar="R", help="requests/s (default: %(default)s)")
    add("--events-rate", type=float, default=2.0, metavar="R", help="events/s (default: 2)")
    add("--users", type=int, default=20_000, metavar="N", help="users with a record, who ask")
    vectors = "text_vectors.safetensors of an earlier learner's --work (default: embed the catalog)"
    add("--text-vectors", type=Path, metavar="FILE", help=vectors)
    add_seed(parser)
    add_json(parser, has_markdown=True)
    return parser
