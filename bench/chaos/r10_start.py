"""R10: time of a service from its start to ready, with Redis and without."""

import time

from bench.chaos.findings import Bound, Finding
from bench.chaos.world import Conditions, World, open_world
from bench.common.results import Row
from bench.common.service_process import HOST, free_port

_READY_S = 5.0
_POLL_S = 0.02


def measure(conditions: Conditions) -> Finding:
    num = conditions.times(5, 1)
    with open_world(conditions, "R10") as (world, _):
        nobody = f"redis://{HOST}:{free_port()}/0"
        rows = [
            *(start_once(world, f"redis_there_{at}", world.redis_url) for at in range(num)),
            *(start_once(world, f"redis_away_{at}", nobody) for at in range(num)),
        ]
    slowest = max(float(row["ready_s"]) for row in rows)
    return Finding("R10", [Bound("ready s", slowest, "<=", _READY_S)], rows)


def start_once(world: World, name: str, redis_url: str) -> Row:
    with world.start_service(redis_url=redis_url) as service:
        service.wait_until_ready(poll_s=_POLL_S)
        row: Row = {"name": name, "ready_s": time.monotonic() - service.started_at}
    print(f"R10 {name}: ready {row['ready_s']:.2f} s")
    return row
