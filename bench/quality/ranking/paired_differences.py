"""Paired differences between rows of a table, by "one minus other" and metric."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from bench.quality.ranking.rank_metrics import Interval

Differences = dict[str, dict[str, Interval]]


def print_differences(console: Console, found: Mapping[str, Mapping[str, Interval]]) -> None:
    for name, metrics in found.items():
        said = (f"{metric} {interval.signed()}" for metric, interval in metrics.items())
        console.print(f"{name}: {', '.join(said)}")


def to_json(found: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {
        name: {metric: interval._asdict() for metric, interval in metrics.items()}
        for name, metrics in found.items()
    }
