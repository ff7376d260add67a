"""Metrics of several processes as one page.

A snapshot is the values of one process in JSON types. Counts add up; of a gauge the page shows the
sum, the largest or the smallest value, as the gauge says. Knows nothing of processes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Merge = Literal["sum", "max", "min"]
_GAUGE = "gauge"
_BEGINNING = "_created"  # of samples that say since when a counter counts
_OF: Mapping[str, Callable[[Sequence[float]], float]] = {"sum": math.fsum, "max": max, "min": min}


@dataclass(frozen=True)
class Family:
    """One metric with all its samples."""

    name: str
    documentation: str
    kind: str  # as in Prometheus: counter, gauge, histogram
    merge: Merge
    samples: Sequence[tuple[str, Mapping[str, str], float]]  # name, labels, value


Snapshot = Sequence[Family]


def take_snapshot(registry: CollectorRegistry, merges: Mapping[str, Merge]) -> Snapshot:
    """Return the values of a registry. merges: by gauge; a gauge without an entry adds up."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            merges.get(metric.name, "sum"),
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def read_snapshot(values: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Return the snapshot that was sent as JSON, where null stands for NaN."""
    return [Family(**value) for value in values]


def only_counts(snapshot: Snapshot) -> Snapshot:
    """Return what stays true of a process that has ended: its counts, without gauges."""
    return [family for family in snapshot if family.kind != _GAUGE]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot of all processes, with the families in their first order."""
    firsts: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for family in (each for snapshot in snapshots for each in snapshot):
        firsts.setdefault(family.name, family)
        of_family = values.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = (name, tuple(labels.items()))
            of_family.setdefault(key, []).append(math.nan if value is None else value)
    return [
        replace(
            family,
            samples=[
                (name, dict(labels), _merge_values(name, family, found))
                for (name, labels), found in values[family.name].items()
            ],
        )
        for family in firsts.values()
    ]


def _merge_values(name: str, family: Family, values: Sequence[float]) -> float:
    how = "min" if name.endswith(_BEGINNING) else family.merge
    return _OF[how](values)


def render(snapshot: Snapshot, also: CollectorRegistry) -> bytes:
    """Return a snapshot, and another registry behind it, in the Prometheus text format."""
    return generate_latest(_Page(snapshot)) + generate_latest(also)


class _Page(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in self._snapshot:
            metric = Metric(family.name, family.documentation, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
