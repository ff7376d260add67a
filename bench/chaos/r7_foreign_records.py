"""R7 and R8 with foreign and broken records in the store, and with late replies of Redis.

Late replies come after the service has stopped waiting for them.
"""

import re
import time
from typing import NamedTuple

import httpx
import redis

from bench.chaos.faults.fault import Fault, Kind
from bench.chaos.findings import Bound, Finding, num_failed, p99_ms, shares
from bench.chaos.world import Conditions, World, open_world, proxied, warm_up
from bench.common.results import Row
from bench.common.service_process import ServiceProcess
from bench.common.synthetic_users import draw_record, user_id
from bench.load.answer_checks import NUM_PREFIXES, Reply
from models.store.keys import DEFAULT_KEYS

_FALLBACKS = re.compile(r'^thinkahead_fallbacks_total\{reason="(\w+)"\} (\S+)$', re.MULTILINE)
_NOTICED = ("foreign", "corrupt", "skew")
_NUM_POISONS = 8
_MEGABYTE = 2**20


class Phase(NamedTuple):
    """Result of one part of the scenario."""

    row: Row
    replies: list[Reply]


def measure(conditions: Conditions) -> Finding:
    phases = []
    with open_world(conditions, "R7") as (world, server):
        with proxied(server) as (proxy, url), world.service(redis_url=url) as service:
            phases.append(_ask(world, service, "healthy"))
            proxy.switch(Fault(Kind.LATENCY, delay_ms=0, jitter_ms=24))  # the service waits 20
            phases.append(_ask(world, service, "late_replies"))
            proxy.switch(Fault())
        with redis.Redis.from_url(server.url) as client, world.service() as service:
            poison(client, world)
            phases.append(_ask(world, service, "poisoned"))
            counts = dict(_FALLBACKS.findall(httpx.get(f"{service.url}/metrics").text))
    replies = [reply for phase in phases for reply in phase.replies]
    bounds = [
        Bound("flawed", sum(bool(reply.flaws) for reply in replies), "==", 0),
        Bound("failed", num_failed(replies), "==", 0),
        *(Bound(f"counted {kind}", float(counts.get(kind, 0)), ">=", 1) for kind in _NOTICED),
    ]
    return Finding("R7", bounds, [phase.row for phase in phases], replies)


def _ask(world: World, service: ServiceProcess, name: str) -> Phase:
    with world.load(service) as load:
        warm_up(load)
        time.sleep(world.conditions.seconds(20.0, 2.0))
    replies = load.replies
    row: Row = {
        "name": name,
        "answers": len(replies),
        "failed": num_failed(replies),
        "p99_ms": p99_ms(replies),
        "flawed": sum(bool(reply.flaws) for reply in replies),
        **shares(replies),
    }
    print(f"R7 {name}: {row['flawed']} of {len(replies)} flawed")
    return Phase(row, replies)


def poison(client: "redis.Redis", world: World) -> None:
    """Replace the record of every third user by foreign, broken or outdated bytes."""
    generation = max(world.truth.shifts)
    for user in range(0, world.truth.num_users, 3):
        _poison(client, world, user, generation, kind=user // 3 % _NUM_POISONS)


def _poison(client: "redis.Redis", world: World, user: int, generation: int, *, kind: int) -> None:
    key = DEFAULT_KEYS.record(user_id(user), generation)
    release, other = world.truth.release, (user + 1) % world.truth.num_users
    own = bytes(client.get(key) or b"")  # type: ignore[arg-type]
    start = world.truth.start_of(other, generation)
    late = draw_record(release, generation=generation + 1, num_prefixes=NUM_PREFIXES, start=start)
    foreign = bytes(client.get(DEFAULT_KEYS.record(user_id(other), generation)) or b"")  # type: ignore[arg-type]
    client.delete(key)
    if kind == 0:
        client.set(key, foreign)
    elif kind == 1:
        client.set(key, own[:-7])
    elif kind == 2:
        client.set(key, own[:20] + bytes([own[20] ^ 1]) + own[21:])
    elif kind == 3:
        client.set(key, b'{"prefixes": [[1, 2]]}')
    elif kind == 4:
        client.set(key, b"x" * _MEGABYTE)
    elif kind == 5:
        client.rpush(key, own)
    elif kind == 6:
        client.set(key, late.encode(user_id(user)))  # valid, but of another night
    else:
        client.set(key, foreign)
        client.set(DEFAULT_KEYS.history(user_id(user)), b"no stream")
