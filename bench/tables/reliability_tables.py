"""Tables of the promises under faults."""

import re
from collections.abc import Mapping

from bench.tables.layout import Column, Grid, Results, Table, pick

_SIGNS = {"==": "must be", "<=": "at most", ">=": "at least"}


def _draw_promises(results: Results) -> Grid:
    """One row per promise; details of a promise have a dot in their name."""
    body = [
        [str(row["name"]), str(row["promise"]), _measured(str(row["figure"])), str(row["holds"])]
        for row in results.rows
        if "." not in str(row["name"])
    ]
    return Grid(["", "promise", "measured (bound)", "holds"], body, num_text=4)


def _measured(figure: str) -> str:
    """Spell out the bounds: "p99 ms 37.5 <= 100" becomes "p99 ms 37.5 (at most 100)"."""
    spelled = re.sub(r" (==|<=|>=) (\S+?)(?=;| \(!\)|$)", _spell_bound, figure)
    return spelled.replace("; ", "<br>")


def _spell_bound(found: re.Match[str]) -> str:
    return f" ({_SIGNS[found[1]]} {found[2]})"


def _prefixed(prefix: str, labels: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": text for name, text in labels.items()}


_OUTAGES = pick(
    "Redis is",
    _prefixed(
        "R1.",
        {
            "killed": "killed with SIGKILL",
            "hung": "stopped with SIGSTOP",
            "read_only": "read-only",
            "slow": "slow",
            "black_hole": "silent (packets vanish)",
            "refused": "refusing connections",
            "reset": "resetting connections",
            "truncated": "truncating replies",
            "loading": "loading its data",
            "corrupted": "corrupting replies",
        },
    ),
    Column("answers", "answers", 0),
    Column("5xx or none", "failed", 0),
    Column("p99 ms", "p99_ms", 1),
    Column("personal again after, s", "personal_s", 2),
)
_OVERLOAD = pick(
    "load",
    _prefixed("R3.", {"twice": "2 times the capacity", "overload": "10 times the capacity"}),
    Column("capacity, requests/s", "capacity", 0),
    Column("offered, requests/s", "offered", 0),
    Column("answered in time, per second", "goodput", 0),
    Column("of these by a model", "full_goodput", 0),
    Column("p99 ms of accepted", "accepted_p99_ms", 0),
    Column("503", "status_503", 0),
)
_SOAK = pick(
    "run",
    {"R9.soak": "30 minutes"},
    Column("answers", "answers", 0),
    Column("5xx or none", "failed", 0),
    Column("p99 ms", "p99_ms", 1),
    Column("RSS at the end, MB", "rss_mb", 0),
    Column("RSS slope, MB per 10 minutes", "slope_mb", 2),
)

RELIABILITY_TABLES = {
    "promises": Table("chaos", _draw_promises),
    "redis-outages": Table("chaos", _OUTAGES),
    "overload": Table("chaos", _OVERLOAD),
    "soak": Table("soak", _SOAK),
}
