"""Every number of overload control: its unit, its reason, and where it was measured.

"Budget" is the request budget (`request_budget_ms`, 100 ms by default). R3 is the benchmark
`python -m bench chaos --only R3`: a service held to a share of a core, offered ten times its
capacity.
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
    # Concurrency limit: how many requests may use store and model at once.

    queueing_target: float = 0.2
    # Share of the budget that queueing and work of a request may take on average. Below it the
    # limit rises, above it the limit falls. 20 ms leave time for the store and for a late loop.
    window_s: float = 0.05  # seconds; the limit moves once a window: one request is no trend
    window_samples: int = 10  # requests; a window with fewer goes on, for a slow service
    headroom: float = 0.5  # times sqrt(limit): requests that may queue on top of the found limit
    first_limit: float = 32.0  # requests, before anything is learnt; about what one core needs
    least_limit: float = 4.0  # requests; two in work and two to follow, also in a flood
    admitted: ByCriticality = ByCriticality(critical=2.0, default=1.0, sheddable=0.5)
    # Times the limit: as many requests in work, from which on one more of this criticality gets
    # `popular`. The gate has the same bound while the loop is late.

    # Event loop: how late it is says how long every request waits in this process.

    beat_s: float = 0.01  # seconds between two looks at the loop; a tenth of the budget
    steady_beats: int = 2  # beats in a row that have to be late: a single stall is no overload
    memory: float = 0.98
    # Share kept at each beat of the loop's steady lateness and of the counts below: half is
    # forgotten in 0.35 s. A loop that rejects well is on time now and then, and then would
    # admit a burst.
    late: float = 0.1  # share of the budget: a loop that is steadily this late is overloaded
    on_time: float = 0.025
    # Share of the budget: an overloaded loop that is late by less than this is on time again. In
    # R3 the two thresholds halved the 99th percentile of accepted answers (150 to 75 ms).

    # The gate, in front of the application.

    burst: int = 256
    # Requests in the process from which on others are rejected although the loop is on time. 128
    # requests at once are all answered in 76 ms, of 256 every third is not.
    flood: float = 10.0
    # Requests turned away of late (`memory`) that make a flood. A machine that is busy with other
    # work makes the loop late too, and a lone client is then no flood.
    patience: float = 0.3
    # Share of the budget: a request that has waited longer is rejected while the loop is late, as
    # its answer would be late too. What lay unread in the kernel counts.

    # Answers of the gate.

    popular_per_admitted: int = 8
    # `popular` answers for each admitted request. Clients that ask again at once took all the time
    # when these had no bound: 2,144 whole answers to 300 clients in 5 s, with it 2,893.
    popular_saved: int = 160  # answers: the most that can be saved up for a burst
    popular_reserved: ByCriticality = ByCriticality(critical=0, default=32, sheddable=96)
    # Answers of `popular_saved` that this criticality leaves to higher ones. Without it clients
    # that ask again soonest held them all, and sheddable ones got more than critical ones.
    popular_patience: float = 0.5
    # Share of the budget: lateness of the loop and wait of the request at which `popular` is still
    # written; above it the cheaper rejection is.
    rest_s: float = 0.3
    # Seconds for which a connection is not read after a rejection. Clients that ask again at once
    # would take all the time there is.
    retry_after_s: int = 1  # seconds, the header Retry-After of a rejection

    # The application.

    answer_reserve_s: float = 0.002  # seconds of the budget kept to fill up and write an answer
