"""R2: a master of a Redis Cluster dies and its replica takes over."""

import time

from bench.chaos.faults.redis_cluster import RedisCluster
from bench.chaos.findings import (
    Bound,
    Finding,
    full_share,
    num_failed,
    p99_ms,
    seconds_to_normal,
    shares,
)
from bench.chaos.world import Conditions, World, warm_up
from bench.common.results import Row
from bench.common.synthetic_users import user_id
from bench.load.answer_checks import Reply
from models.store.keys import DEFAULT_KEYS

_BACK_S = 5.0
_REPLICATED_S = 1.5  # from the last write until replicas have it; ample


def measure(conditions: Conditions) -> Finding:
    found = [fail_over(conditions, number) for number in range(conditions.times(3, 1))]
    rows = [row for row, _ in found]
    replies = [reply for _, each in found for reply in each]
    bounds = [
        Bound("failed", num_failed(replies), "==", 0),
        Bound("personal s", max(float(row["personal_s"]) for row in rows), "<=", _BACK_S),
    ]
    return Finding("R2", bounds, rows, replies)


def fail_over(conditions: Conditions, number: int) -> tuple[Row, list[Reply]]:
    """Kill one master under load.

    No events are sent, because a cluster may lose those acknowledged just before the failover.
    """
    with RedisCluster(conditions.folder / f"cluster-{number}") as cluster:
        world = World(conditions, f"R2-{number}", cluster.url)
        generation = world.fill()
        time.sleep(_REPLICATED_S)
        with world.service() as service, world.load(service, event_share=0.0) as load:
            warm_up(load)
            time.sleep(conditions.seconds(3.0, 1.0))
            killed_at = time.monotonic()
            cluster.kill(cluster.master_of(DEFAULT_KEYS.record(user_id(number), generation)))
            time.sleep(conditions.seconds(10.0, 6.0))
    replies = load.since(killed_at)
    healthy = load.since(0.0, killed_at)
    row: Row = {
        "name": f"cluster_{number}",
        "answers": len(replies),
        "failed": num_failed(replies),
        "p99_ms": p99_ms(replies),
        "personal_s": seconds_to_normal(replies, killed_at, healthy=full_share(healthy)),
        **shares(replies),
    }
    print(f"R2 cluster {number}: {row['failed']} failed, personal again {row['personal_s']:.2f} s")
    return row, [*healthy, *replies]
