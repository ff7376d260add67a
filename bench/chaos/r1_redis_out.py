"""R1: ten kinds of Redis outage.

The server itself is killed, stopped or read-only. A fault proxy in front of it makes the others.
"""

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import httpx
import redis

from bench.chaos.faults.fault import Fault, Kind
from bench.chaos.faults.proxy_process import ProxyProcess
from bench.chaos.faults.redis_server import RedisServer
from bench.chaos.findings import (
    Bound,
    Finding,
    full_share,
    num_failed,
    p99_ms,
    seconds_to_normal,
    shares,
    statuses,
)
from bench.chaos.world import Conditions, World, open_world, proxied, warm_up
from bench.common.results import Row
from bench.common.service_process import ServiceProcess
from bench.load.answer_checks import Reply
from bench.load.load_stream import LoadStream
from bench.load.rate_sweep import BUDGET_MS

_OPEN = re.compile(r"^thinkahead_breaker_open(?:\{[^}]*\})? 1(?:\.0)?$", re.MULTILINE)
_POLL_S = 0.05
_SETTLED_S = 0.2  # after the breaker opened, until no earlier reply is open
_BREAKER_S, _BACK_S = 1.0, 2.0


class Outage(NamedTuple):
    """One kind of outage."""

    name: str
    strike: Callable[[], None]  # begins the outage
    lift: Callable[[], None]  # ends it
    is_total: bool = True  # no reply gets through: the breaker must open, answers are degraded
    seconds: float = 6.0  # length in a whole run


class OutageResult(NamedTuple):
    """Result of one outage."""

    outage: Outage
    row: Row
    replies: Sequence[Reply]


def measure(conditions: Conditions) -> Finding:
    with open_world(conditions, "R1") as (world, server):
        with world.service() as service, world.load(service) as load:
            found = measure_outages(server_outages(server), world, service, load)
        with (
            proxied(server) as (proxy, url),
            world.service(redis_url=url) as service,
            world.load(service) as load,
        ):
            found += measure_outages(proxy_outages(proxy, world), world, service, load)
    replies = [reply for each in found for reply in each.replies]
    rows, total = [each.row for each in found], [each.row for each in found if each.outage.is_total]
    bounds = [
        Bound("failed", num_failed(replies), "==", 0),
        Bound("p99 ms", max(float(row["p99_ms"]) for row in rows), "<=", BUDGET_MS),
        Bound("breaker s", max(float(row["breaker_s"]) for row in total), "<=", _BREAKER_S),
        Bound("store ms then", max(float(row["store_ms"]) for row in total), "<=", 1.0),
        Bound("personal s", max(float(row["personal_s"]) for row in rows), "<=", _BACK_S),
    ]
    return Finding("R1", bounds, rows, replies)


def server_outages(server: RedisServer) -> list[Outage]:
    return [
        Outage("killed", server.kill, server.start, seconds=30.0),
        Outage("hung", server.stop, server.resume),
        Outage(
            "read_only",
            partial(_tell, server, "REPLICAOF", "127.0.0.1", "1"),
            partial(_tell, server, "REPLICAOF", "NO", "ONE"),
            is_total=False,
        ),
    ]


def proxy_outages(proxy: ProxyProcess, world: World) -> list[Outage]:
    def named(name: str, fault: Fault, *, is_total: bool = True) -> Outage:
        return Outage(
            name, partial(proxy.switch, fault), partial(proxy.switch, Fault()), is_total=is_total
        )

    def corrupt() -> None:
        world.truth.is_history_certain = False
        proxy.switch(Fault(Kind.CORRUPT, share=0.2))

    return [
        named("slow", Fault(Kind.LATENCY, delay_ms=150, jitter_ms=100)),
        named("black_hole", Fault(Kind.BLACK_HOLE)),
        named("refused", Fault(Kind.REFUSE)),
        named("reset", Fault(Kind.RESET)),
        named("truncated", Fault(Kind.TRUNCATE)),
        named("loading", Fault(Kind.ERROR)),
        Outage("corrupted", corrupt, partial(proxy.switch, Fault()), is_total=False),
    ]


def measure_outages(
    outages: Sequence[Outage], world: World, service: ServiceProcess, load: LoadStream
) -> list[OutageResult]:
    """Measure the service without an outage, then during one outage after another."""
    warm_up(load)
    time.sleep(world.conditions.seconds(3.0, 1.0))
    healthy = full_share(well := list(load.replies))
    print(f"R1 with Redis: p99 {p99_ms(well):.1f} ms, {healthy:.1%} from a record")
    return [measure_outage(each, world, service, load, healthy=healthy) for each in outages]


def measure_outage(
    outage: Outage, world: World, service: ServiceProcess, load: LoadStream, *, healthy: float
) -> OutageResult:
    """Measure the service during and after one outage.

    Args:
        healthy: share of answers from a record before the outage.
    """
    conditions = world.conditions
    lasts_s = conditions.seconds(outage.seconds, 1.5)
    watch_s = conditions.seconds(5.0, 2.5)
    struck_at = time.monotonic()
    outage.strike()
    opened_at = breaker_opened_at(service, until=struck_at + lasts_s)
    time.sleep(max(struck_at + lasts_s - time.monotonic(), 0.0))
    outage.lift()
    lifted_at = time.monotonic()
    time.sleep(watch_s)
    replies = load.since(struck_at, lifted_at + watch_s)
    out = [reply for reply in replies if reply.due_at < lifted_at]
    after = [reply for reply in replies if reply.due_at >= lifted_at]
    row: Row = {
        "name": outage.name,
        "seconds": lifted_at - struck_at,
        "answers": len(replies),
        "failed": num_failed(replies),
        "p99_ms": p99_ms(replies),
        "breaker_s": opened_at - struck_at,
        "store_ms": _store_ms(out, since=opened_at + _SETTLED_S),
        "personal_s": seconds_to_normal(after, lifted_at, healthy=healthy),
        "flawed": sum(bool(reply.flaws) for reply in replies),
        **statuses(replies),
        **shares(out),
    }
    print(f"R1 {outage.name}: {row['failed']} failed, p99 {row['p99_ms']:.1f} ms, ", end="")
    print(f"breaker {row['breaker_s']:.2f} s, personal again {row['personal_s']:.2f} s")
    return OutageResult(outage, row, replies)


def breaker_opened_at(service: ServiceProcess, *, until: float) -> float:
    """Poll the metric of the breaker; return the time when it opens, or `until`."""
    with httpx.Client() as client:
        while (now := time.monotonic()) < until:
            if _OPEN.search(client.get(f"{service.url}/metrics").text):
                return now
            time.sleep(_POLL_S)
    return until


def _store_ms(out: Sequence[Reply], *, since: float) -> float:
    """Return the 99th percentile of the milliseconds that recommendations spent on the store."""
    spent = sorted(reply.store_ms for reply in out if reply.source and reply.due_at >= since)
    return spent[int(0.99 * len(spent))] if spent else 0.0


def _tell(server: RedisServer, *command: str) -> None:
    with redis.Redis(host=server.address.host, port=server.address.port) as client:
        client.execute_command(*command)
