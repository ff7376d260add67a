"""R3: open-loop load of ten times the capacity of a service with a share of a core.

The capacity is the highest rate that the service answers in time, measured with the requests of the
overload. Clients give up after a second, as real ones do.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.chaos.faults.cpu_quota import hold
from bench.chaos.findings import (
    Bound,
    Finding,
    full_share,
    p99_ms,
    seconds_to_normal,
    shares,
    statuses,
)
from bench.chaos.world import Conditions, World, open_world, warm_up
from bench.common.results import Row
from bench.common.service_process import ServiceProcess
from bench.load.answer_checks import Reply
from bench.load.rate_sweep import BUDGET_MS, next_rate, saturation

# Shares of a core. The second is for slow machines, where one answer takes many quota periods.
_SHARES = (0.1, 0.25)
_LEAST_CAPACITY = 80
_TIMES = 10
_FIRST_RATE = 20
_MAX_CONNECTIONS = 1200
# Connections for each request per second: enough that no request waits for another's answer, and
# few enough that none is idle until the service closes it.
_CONNECTIONS = 4 / 3
_PATIENCE_S = 1.0
_SETTLE_S = 5.0  # for the service to accept the many new connections
_NORMAL_S = 5.0
_BUSY = 503


def measure(conditions: Conditions) -> Finding:
    with (
        open_world(conditions, "R3") as (world, _),
        world.service() as service,
        ExitStack() as held,
    ):
        share, capacity = _limit_cpu(world, service, held)
        if not capacity:
            return Finding("R3", [Bound("capacity", 0, ">=", 1)])
        return _measure(world, service, share, capacity)


def _measure(world: World, service: ServiceProcess, share: float, capacity: int) -> Finding:
    length_s = world.conditions.seconds
    half = max(capacity // 2, 1)
    healthy = _ask(world, service, half, length_s(10.0, 2.0))
    before_mb = service.rss_mb()
    twice, _ = _overload(world, service, 2 * capacity, length_s(20.0, 2.0))
    _ask(world, service, half, length_s(5.0, 1.0))
    overload, peak_mb = _overload(world, service, _TIMES * capacity, length_s(60.0, 3.0))
    after = _ask(world, service, half, length_s(8.0, 3.0), is_cold=True)
    normal_s = (
        seconds_to_normal(after, after[0].due_at, healthy=full_share(healthy)) if after else 0.0
    )
    mild = describe("twice", twice, capacity, length_s(20.0, 2.0))
    row = describe("overload", overload, capacity, length_s(60.0, 3.0))
    row |= {
        "share": share,
        "rss_before_mb": before_mb,
        "rss_peak_mb": peak_mb,
        "normal_s": normal_s,
    }
    print(f"R3 capacity {capacity}, goodput {row['goodput']:.0f}, full {row['full_goodput']:.0f}")
    return Finding("R3", _bounds(row, overload), [mild, row], [*healthy, *twice, *overload, *after])


def _bounds(row: Row, overload: Sequence[Reply]) -> list[Bound]:
    """Return the promised figures of the overload, from its row and its replies."""
    capacity = float(row["capacity"])
    refused = [reply for reply in overload if reply.status == _BUSY]
    rss_grown = float(row["rss_peak_mb"]) / float(row["rss_before_mb"]) - 1
    return [
        Bound("capacity", capacity, ">=", 1),
        Bound("goodput", float(row["goodput"]), ">=", 0.9 * capacity),
        Bound("accepted p99 ms", float(row["accepted_p99_ms"]), "<=", BUDGET_MS),
        Bound("503 without a time", sum(not each.has_retry_after for each in refused), "==", 0),
        Bound("other 5xx", sum(_is_fault(reply) for reply in overload), "==", 0),
        Bound("RSS grown", rss_grown, "<=", 0.1),
        Bound("normal s", float(row["normal_s"]), "<=", _NORMAL_S),
    ]


def _limit_cpu(world: World, service: ServiceProcess, held: ExitStack) -> tuple[float, int]:
    """Limit the service to a share of a core until `held` ends; return the share and the capacity.

    The larger share is used if the smaller one leaves too little capacity.
    """
    capacity = 0
    for share in _SHARES:
        held.close()
        how = held.enter_context(hold(service.pid, share))
        capacity = find_capacity(world, service)
        print(f"R3 the service has {share:.0%} of a core, capacity {capacity}: {how}")
        if capacity >= _LEAST_CAPACITY or world.conditions.is_quick:
            break
    return share, capacity


def find_capacity(world: World, service: ServiceProcess) -> int:
    """Return the highest rate, per second, with 95% of its requests answered in time by a model."""
    seconds = world.conditions.seconds(4.0, 1.0)
    rows: list[Row] = []
    while (rate := next_rate(rows, first=_FIRST_RATE)) is not None:
        replies = _ask(world, service, rate, seconds)
        good = sum(is_good(reply) and reply.source != "popular" for reply in replies)
        goodput = rate * good / max(len(replies), 1)  # scaled to exactly `rate` requests
        rows.append({"name": f"rate_{rate}", "rate": rate, "goodput": goodput})
        if world.conditions.is_quick and len(rows) == 3:
            break
    return saturation(rows)


def _ask(
    world: World, service: ServiceProcess, rate: int, seconds: float, *, is_cold: bool = False
) -> Sequence[Reply]:
    """Return the replies of some seconds at `rate`, after a warm-up unless `is_cold`."""
    with world.load(service, rate=rate, patience_s=_PATIENCE_S) as load:
        if not is_cold:
            warm_up(load)
        began_at = time.monotonic()
        time.sleep(seconds)
    return load.since(began_at)


def _overload(
    world: World, service: ServiceProcess, rate: int, seconds: float
) -> tuple[Sequence[Reply], float]:
    """Return the replies and the peak memory of the service during the load, in MB."""
    peak_mb = service.rss_mb()
    with world.load(
        service,
        rate=rate,
        num_connections=min(round(_CONNECTIONS * rate), _MAX_CONNECTIONS),
        patience_s=_PATIENCE_S,
        settle_s=_SETTLE_S,
    ) as load:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            peak_mb = max(peak_mb, service.rss_mb())
            time.sleep(0.2)
    return load.replies, peak_mb


def is_good(reply: Reply) -> bool:
    """Tell if a request was accepted and answered in time."""
    return reply.status in (200, 202) and reply.latency_s <= BUDGET_MS / 1000


def _is_fault(reply: Reply) -> bool:
    return reply.status >= 500 and reply.status != _BUSY


def describe(
    name: str, replies: Sequence[Reply], capacity: int, seconds: float
) -> dict[str, str | int | float]:
    """Return one row of a load.

    `goodput` is the rate of answers in time, and `full_goodput` is the part of it that is not
    `popular`. A request is accepted if it is answered with 200 or 202.
    """
    accepted = [reply for reply in replies if reply.status in (200, 202)]
    good = [reply for reply in replies if is_good(reply)]
    return {
        "name": name,
        "capacity": capacity,
        "offered": len(replies) / seconds,
        "goodput": len(good) / seconds,
        "full_goodput": sum(reply.source != "popular" for reply in good) / seconds,
        "accepted_p99_ms": p99_ms(accepted),
        **statuses(replies),
        **shares(replies),
    }
