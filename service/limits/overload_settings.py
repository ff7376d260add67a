"""Numbers of overload control: the unit of each, its reason, and where it was measured.

The budget is the request budget (`request_budget_ms`, 100 ms by default). R3 is the benchmark
`python -m bench chaos --only R3`: a service held to a share of a core, offered ten times its
capacity. "Simulated" is tests/fakes/flood_world.py, a process of which a quarter of a core is ours.
"""

from dataclasses import dataclass

from service.sources import Criticality


@dataclass(frozen=True)
class ByCriticality:
    """One number for each value of `X-Criticality`."""

    critical: float
    default: float
    sheddable: float

    def of(self, criticality: Criticality) -> float:
        return float(getattr(self, criticality.value))


@dataclass(frozen=True)
class OverloadSettings:
    """Fields in the order in which a request meets them: loop, gate, limit, answer."""

    # 1. Lateness of the event loop, which every request in the process waits for.

    beat_s: float = 0.01  # seconds between two measurements; a tenth of the budget
    steady_beats: int = 2  # late beats in a row that count: a single stall is no overload
    late: float = 0.1  # share of the budget: from this steady lateness on the gate is strict
    # Share of lateness, and of the count for `flood`, that is kept at each beat: half is forgotten
    # in 0.35 s. Simulated at the capacity, 0.95 has a 99th percentile of 53 ms, 0.98 of 36.
    memory: float = 0.98

    # 2. The gate in front of the application.

    # Requests in the process, while the loop is on time, above which the gate answers. Simulated,
    # 1,000 requests at once then take 0.24 s at most, and 0.65 s without the bound.
    burst: int = 256
    # Recent requests that the gate answered, from which on it stays strict. A loop that rejects
    # well is on time now and then. Simulated at ten times the capacity, a gate that is strict only
    # while the loop is late admits bursts there: 99th percentile 542 ms, 52 with this bound.
    flood: float = 10.0
    # Share of the recently admitted requests that these have to be as well: near its capacity a
    # process rejects some of a burst, which is no flood.
    flood_share: float = 0.25
    # Share of the budget: in a flood, a request that has waited longer is not begun, as its answer
    # would be late. R3 had a 99th percentile of 364 ms without it.
    patience: float = 0.3
    # `popular` answers of the gate for each admitted request. Without a bound, 300 clients that
    # ask again at once left time for 2,144 whole answers in 5 s; with it for 2,893.
    popular_per_admitted: int = 8
    popular_saved: int = 160  # `popular` answers that can be saved up for a burst
    # Saved answers that are left to higher criticalities. Otherwise clients that ask again soonest
    # have them all, and sheddable requests are answered more often than critical ones.
    popular_reserved: ByCriticality = ByCriticality(critical=0, default=32, sheddable=96)
    # Share of the budget: wait and lateness together, above which no `popular` is written. Without
    # it, accepted answers took 1,009 ms (99th percentile) in a flood like R3's, with 0.5 160. In R3
    # itself 0.5 gave 102 ms at 2,401 requests/s, 0.4 gave 93 at 1,872.
    popular_patience: float = 0.4
    # Seconds for which a connection is not read after a rejection. Without it, clients that ask
    # again at once took all the time: 8 whole answers in 5 s instead of 914.
    rest_s: float = 0.3
    retry_after_s: int = 1  # seconds in the header Retry-After of a rejection

    # 3. The concurrency limit: requests in work at once, in store or model.

    # Share of the budget that queueing and work may take on average. Above it the limit falls.
    queueing_target: float = 0.2
    window_s: float = 0.05  # seconds of measurement for one change of the limit
    window_samples: int = 10  # requests in a window at least, so that one slow answer is no trend
    headroom: float = 0.5  # times sqrt(limit): requests that may queue above what was measured
    # Requests, before anything is measured. Simulated, 128 requests at once to a new process take
    # 93 ms at most; with the highest limit at the start 114.
    first_limit: float = 32.0
    # Requests: least limit in a flood. A service held to a quarter of a core and asked 1,200 times
    # a second gave 133 to 180 whole answers a second bounded by 4, 223 by 6. Simulated at ten
    # times the capacity, 12 gives 331 in 6 s, 6 more than 642.
    least_limit: float = 6.0
    # Requests: least limit without a flood, to bridge the bursts of a process near its capacity.
    # With 6 the open loop gave 1,589 to 1,789 whole answers of 2,000 a second, with 12 1,903 and
    # 1,998.
    calm_limit: float = 12.0
    # Times the limit: bound on requests in work above which a request of this criticality gets
    # `popular`. While the gate is strict, it has the same bound on requests in the process.
    admitted: ByCriticality = ByCriticality(critical=2.0, default=1.0, sheddable=0.65)

    # 4. The answer.

    answer_reserve_s: float = 0.002  # seconds of the budget kept to fill up and write an answer
