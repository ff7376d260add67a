"""Findings of the scenarios: figures with their bounds, merged into one file over several runs.

Knows nothing of the measurement.
"""

import json
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from bench.common.results import Row
from bench.load.answer_checks import Reply
from bench.load.rate_sweep import histogram, percentile_ms

PROMISES = {
    "R1": "Redis out: no 5xx, p99 in the budget, breaker in 1 s, personal again in 2 s",
    "R2": "failover: personal again in 5 s",
    "R3": "10x overload: goodput 90% of capacity, accepted p99 in the budget, then normal in 5 s",
    "R4": "SIGTERM: no request in flight fails, gone in 10 s",
    "R5": "activate and roll back at 200 requests/s: no 5xx, one manifest an answer, 3 s",
    "R6": "nightly job killed 50 times: byte-identical, nobody lost",
    "R7": "no answer from another user's record",
    "R8": "no SID outside the catalog, no excluded item, no item of the history used",
    "R9": "30 minutes under load: RSS slope under 1 MB per 10 minutes",
    "R10": "ready 5 s after start",
}
FLAWS = {"R7": ("foreign",), "R8": ("illegal", "excluded", "seen", "twice")}
_IN_A_ROW = 40  # recommendations: a fifth of a second at 200 a second
_ENOUGH = 0.9
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class Bound(NamedTuple):
    """One promised figure."""

    name: str
    value: float  # measured
    sign: Literal["<=", ">=", "=="]
    limit: float  # promised

    @property
    def holds(self) -> bool:
        return bool(_COMPARE[self.sign](self.value, self.limit))

    def __str__(self) -> str:
        mark = "" if self.holds else " (!)"
        value = f"{self.value:,.0f}" if float(self.value).is_integer() else f"{self.value:,.3g}"
        return f"{self.name} {value} {self.sign} {self.limit:g}{mark}"


@dataclass(frozen=True)
class Finding:
    """Result of one scenario."""

    name: str  # of the promise, such as R1
    bounds: Sequence[Bound]
    details: Sequence[Row] = ()  # one row per measurement
    replies: Sequence[Reply] = field(default=(), repr=False)  # all checked ones, for R7 and R8

    def rows(self, *, is_quick: bool) -> list[Row]:
        """Return the row of the promise and one row per detail.

        R7 and R8 are promises about the answers of all scenarios. The row of their own scenario is
        therefore a detail, named R7.scenario.
        """
        flaws = Counter(flaw for reply in self.replies for flaw in reply.flaws)
        summary = {
            **summarise(self.name, self.bounds),
            "command": f"python -m bench chaos --only {self.name}",
            "judged": sum(bool(reply.source) for reply in self.replies),
            **{f"flaw_{flaw}": flaws[flaw] for kinds in FLAWS.values() for flaw in kinds},
            "is_quick": int(is_quick),
        }
        if self.name in FLAWS:
            summary["name"] = f"{self.name}.scenario"
        return [summary, *({**row, "name": f"{self.name}.{row['name']}"} for row in self.details)]


def summarise(name: str, bounds: Sequence[Bound]) -> dict[str, str | int | float]:
    return {
        "name": name,
        "promise": PROMISES[name],
        "figure": "; ".join(str(bound) for bound in bounds),
        "holds": "yes" if bounds and all(bound.holds for bound in bounds) else "NO",
        **{bound.name.replace(" ", "_"): bound.value for bound in bounds},
    }


def merge(file: Path | None, fresh: Sequence[Row]) -> list[Row]:
    """Merge new rows into those of the file, and compute R7 and R8 over all of them.

    Rows are in the order of the promises, each promise before its details.

    Args:
        fresh: replace the file's rows of the same promises.
    """
    held: list[Row] = []
    if file is not None and file.exists():
        held = json.loads(file.read_text())["rows"]
    renewed = {promise_of(row) for row in fresh}
    rows = [row for row in held if promise_of(row) not in renewed and row["name"] not in FLAWS]
    rows += fresh
    rows += [_over_all(name, kinds, rows) for name, kinds in FLAWS.items()]
    order = list(PROMISES)
    return sorted(rows, key=lambda row: (order.index(promise_of(row)), "." in str(row["name"])))


def promise_of(row: Row) -> str:
    return str(row["name"]).split(".")[0]


def _over_all(name: str, kinds: Iterable[str], rows: Sequence[Row]) -> Row:
    judged = sum(int(row.get("judged", 0)) for row in rows)
    bounds = [
        Bound(kind, sum(int(row.get(f"flaw_{kind}", 0)) for row in rows), "==", 0) for kind in kinds
    ]
    row = summarise(name, [*bounds, Bound("answers", judged, ">=", 1)])
    return {**row, "command": "python -m bench chaos"}


def p99_ms(replies: Sequence[Reply]) -> float:
    """Return the 99th percentile of the latencies, given-up requests included; 0 without any."""
    if not replies:
        return 0.0
    return percentile_ms(histogram([reply.latency_s for reply in replies]), 99)


def full_share(replies: Sequence[Reply]) -> float:
    """Return the share of recommendations that come from a record and are not degraded."""
    asked = [reply for reply in replies if reply.kind == "recommend"]
    return sum(reply.is_full for reply in asked) / max(len(asked), 1)


def seconds_to_normal(after: Sequence[Reply], since: float, *, healthy: float) -> float:
    """Return the seconds from `since` until recommendations are back to normal.

    Normal begins with the first full recommendation that starts a window of _IN_A_ROW with enough
    full ones: at least _ENOUGH of the share `healthy`. Without such a window, the seconds are those
    to the last recommendation.
    """
    asked = sorted(
        (reply for reply in after if reply.kind == "recommend" and reply.due_at >= since),
        key=lambda reply: reply.due_at,
    )
    wanted = _ENOUGH * healthy * _IN_A_ROW
    for at in range(len(asked) - _IN_A_ROW + 1):
        window = asked[at : at + _IN_A_ROW]
        if sum(reply.is_full for reply in window) >= wanted and window[0].is_full:
            return window[0].ended_at - since
    return asked[-1].ended_at - since if asked else 0.0


def num_failed(replies: Iterable[Reply]) -> int:
    """Count answers with a 5xx and missing answers."""
    return sum(reply.status == 0 or reply.status >= 500 for reply in replies)


def statuses(replies: Iterable[Reply]) -> dict[str, int]:
    """Count replies by status: status_200, ...; status_0 is a missing answer."""
    counts = Counter(reply.status for reply in replies)
    return {f"status_{status}": count for status, count in sorted(counts.items())}


def shares(replies: Sequence[Reply]) -> dict[str, float]:
    """Return share_SOURCE for the sources of the answered recommendations."""
    sources = Counter(reply.source for reply in replies if reply.source)
    total = max(sources.total(), 1)
    return {f"share_{source}": num / total for source, num in sorted(sources.items())}
