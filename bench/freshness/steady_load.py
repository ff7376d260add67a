"""An even open-loop load of recommendations, from a process of its own; and tallies of answers."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.common.results import Row
from bench.load.arrivals import Mix, draw_requests
from bench.load.http_connection import Address, Answer
from bench.load.open_loop import run_open_loop
from bench.load.rate_sweep import BUDGET_MS, histogram, percentile_ms

_START_S = 60.0  # for the process to start, and for the last answers
_SERVER_ERROR = 500


@dataclass
class Tally:
    """Statuses and latencies of answers."""

    statuses: Counter[int] = field(default_factory=Counter)  # 0 for no answer
    latency_s: list[float] = field(default_factory=list)

    def add(self, answer: Answer | None, latency_s: float) -> None:
        self.statuses[answer.status if answer else 0] += 1
        self.latency_s.append(latency_s)

    @property
    def num_failed(self) -> int:
        """Return the number of 5xx and of requests without an answer."""
        return sum(num for status, num in self.statuses.items() if not 0 < status < _SERVER_ERROR)

    def row(self, name: str, *, is_bounded: bool = True) -> Row:
        """Return a row; it holds without failures and, if bounded, with its p99 in the budget."""
        found, num = histogram(self.latency_s), len(self.latency_s)
        in_time = sum(latency_s <= BUDGET_MS / 1000 for latency_s in self.latency_s)
        p99_ms = percentile_ms(found, 99)
        is_slow = is_bounded and p99_ms > BUDGET_MS
        return {
            "name": name,
            "requests": num,
            "p50_ms": percentile_ms(found, 50),
            "p95_ms": percentile_ms(found, 95),
            "p99_ms": p99_ms,
            "max_ms": percentile_ms(found, 100),
            "in_budget": in_time / max(num, 1),
            "failed": self.num_failed,
            **{f"status_{status}": count for status, count in sorted(self.statuses.items())},
            "holds": "NO" if self.num_failed or is_slow else "yes",
        }


@dataclass(frozen=True)
class Load:
    """Requests to one service."""

    address: Address
    mix: Mix
    rate: int  # requests per second
    seconds: float
    seed: int


@dataclass
class Offered:
    """Outcome of a load."""

    tally: Tally
    lag_p99_ms: float  # delay of the generator itself
    cores: float  # that it took


@contextmanager
def loaded(load: Load) -> Iterator[Callable[[], Offered]]:
    """Offer the load from another process; yield a call that waits for its end."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        offering = pool.apply_async(offer, (load,))
        yield lambda: offering.get(load.seconds + _START_S)


def offer(load: Load) -> Offered:
    """Offer the load, and tally its answers."""
    requests = draw_requests(load.mix, rate=load.rate, seconds=load.seconds, seed=load.seed)
    cpu_s = time.process_time()
    outcomes = run_open_loop(load.address, requests, keeps_bodies=False)
    cpu_s = time.process_time() - cpu_s
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome.answer, outcome.latency_s)
    lag = histogram([outcome.lag_s for outcome in outcomes])
    return Offered(tally, percentile_ms(lag, 99), cpu_s / load.seconds)
