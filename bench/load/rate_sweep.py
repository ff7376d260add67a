"""Rows from outcomes, saturation from rows, and the next rate to try.

Defines a good answer and saturation. Knows nothing of processes or sockets.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.common.results import Row
from bench.load.open_loop import Outcome

BUDGET_MS = 100  # the service's own default
FOLLOWS = 0.95  # share of the offered rate that has to be answered in time
_GROWTH = 1.25
_FINE = 1.06  # final ratio of the lowest rate beyond saturation to the highest within it
_LONGEST_US = 3_600_000_000
_DIGITS = 3  # significant digits of the histogram
_OK = 200
_BEST_SOURCE = "personal"


@dataclass(frozen=True)
class Spent:
    """CPU seconds of the service and of the generator during a run."""

    service_s: float
    generator_s: float


def describe(
    name: str, outcomes: Sequence[Outcome], *, rate: int, seconds: float, spent: Spent
) -> dict[str, str | int | float]:
    """Return one row. Latencies, shares and stages are those of recommendations.

    - latencies (`p50_ms` ...): from the intended send time.
    - `goodput`: answers per second with status 200 within BUDGET_MS, events included.
    - `full_goodput`: those of `goodput` that are not degraded.
    - `cpu_ms`: CPU time of the service process per answer.
    - `share_SOURCE`: share of all requested recommendations.
    - `STAGE_ms`: mean of the service's own timings.
    - `lag_p99_ms`, `generator_busy`: delay and load of the generator, which limit the accuracy.
    """
    asked = [outcome for outcome in outcomes if outcome.request.kind == "recommend"]
    events = [outcome for outcome in outcomes if outcome.request.kind == "event"]
    bodies = [_body(outcome) for outcome in asked]
    good = [outcome for outcome in outcomes if _is_good(outcome)]
    num_full = sum(not _body(outcome).get("degraded", False) for outcome in good)
    num_answers = sum(outcome.answer is not None for outcome in outcomes)
    latency = histogram([outcome.latency_s for outcome in asked])
    return {
        "name": name,
        "rate": rate,
        "seconds": seconds,
        "requests": len(outcomes),
        "p50_ms": percentile_ms(latency, 50),
        "p99_ms": percentile_ms(latency, 99),
        "p999_ms": percentile_ms(latency, 99.9),
        "max_ms": percentile_ms(latency, 100),
        "event_p99_ms": percentile_ms(histogram([event.latency_s for event in events]), 99),
        "goodput": len(good) / seconds,
        "full_goodput": num_full / seconds,
        "cpu_ms": 1000 * spent.service_s / max(num_answers, 1),
        "lag_p99_ms": percentile_ms(histogram([outcome.lag_s for outcome in outcomes]), 99),
        "generator_busy": spent.generator_s / seconds,
        **_shares(bodies),
        **_stages(bodies),
        **_statuses(outcomes),
    }


def histogram(seconds: Sequence[float]) -> HdrHistogram:
    """Return a histogram of microseconds."""
    found = HdrHistogram(1, _LONGEST_US, _DIGITS)
    for value in seconds:
        found.record_value(max(round(1e6 * value), 1))
    return found


def percentile_ms(found: HdrHistogram, percent: float) -> float:
    return float(found.get_value_at_percentile(percent)) / 1000


def follows(row: Row, column: str = "goodput") -> bool:
    """Tell if goodput is at least FOLLOWS of the offered rate."""
    return float(row[column]) >= FOLLOWS * float(row["rate"])


def saturation(rows: Sequence[Row], column: str = "goodput") -> int:
    """Return the highest rate, in requests per second, with enough goodput; 0 if none has."""
    return max((int(row["rate"]) for row in rows if follows(row, column)), default=0)


def next_rate(rows: Sequence[Row], *, first: int) -> int | None:
    """Return the next rate to try, or None when saturation is known to 6%.

    Rates grow by a quarter until goodput no longer follows. Then the interval is bisected.
    """
    low = saturation(rows)
    failed = [int(row["rate"]) for row in rows if int(row["rate"]) > low]
    if not failed:
        return max(round(low * _GROWTH), low + 1) if rows else first
    middle = (low + min(failed)) // 2
    return middle if min(failed) > low * _FINE and middle > low else None


def _is_good(outcome: Outcome) -> bool:
    answer = outcome.answer
    in_time = outcome.latency_s <= BUDGET_MS / 1000
    return answer is not None and answer.status == _OK and in_time


def _body(outcome: Outcome) -> dict[str, Any]:
    """Return the answer's JSON; empty for an error or without an answer."""
    if outcome.answer is None or outcome.answer.status != _OK:
        return {}
    body: dict[str, Any] = json.loads(outcome.answer.body)
    return body


def _shares(bodies: Sequence[dict[str, Any]]) -> dict[str, float]:
    sources = Counter(body["source"] for body in bodies if body)
    named = sorted({_BEST_SOURCE, *sources})
    return {f"share_{source}": sources[source] / max(len(bodies), 1) for source in named}


def _stages(bodies: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return mean milliseconds by stage over the answers."""
    timings = [body["timings_ms"] for body in bodies if body]
    stages = timings[0] if timings else {}
    return {f"{stage}_ms": sum(each[stage] for each in timings) / len(timings) for stage in stages}


def _statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count answers by status: status_200, ..., and no_answer."""
    counts = Counter(outcome.answer and outcome.answer.status for outcome in outcomes)
    no_answer = counts.pop(None, 0)
    named = {f"status_{status}": count for status, count in sorted(counts.items())}
    return {**named, "no_answer": no_answer}
