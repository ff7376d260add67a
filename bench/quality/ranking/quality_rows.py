"""Rows of the quality table: names, metrics, paired differences.

Knows ranks and prefix coverage of all users. Knows nothing of models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.paired_differences import Differences
from bench.quality.ranking.prefix_map import Coverage
from bench.quality.ranking.rank_metrics import Interval, bootstrap_named, ndcg_at, recall_at

CUTOFFS = (5, 10)
METRICS = tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in CUTOFFS)
STRICT, UNION = "two_tier_strict", "two_tier_union"
SHUFFLED, POPULAR = "two_tier_shuffled", "two_tier_popular_prefixes"
OWN = "online_own_prefixes"
AT_ONCE, TIERS_AT_ONCE = "reasoner_at_once", "two_tier_at_once"  # without a thought
REASONER, ONLINE, SASREC = "reasoner", "online", "sasrec"
COMPARED = (
    (REASONER, AT_ONCE),
    (STRICT, TIERS_AT_ONCE),
    (STRICT, ONLINE),
    (UNION, ONLINE),
    (ONLINE, SASREC),
)
COMPARED_PREFIXES = (  # by prefix recall, with equally many prefixes per user
    (STRICT, SHUFFLED),
    (STRICT, POPULAR),
    (STRICT, OWN),
    (STRICT, TIERS_AT_ONCE),
    (TIERS_AT_ONCE, OWN),
)


@dataclass(frozen=True)
class Outcome:
    """One row before averaging."""

    rank_U: NDArray[np.float64]  # of each target; infinity if it was not ranked
    coverage: Coverage
    seconds: float  # of ranking and of the models behind it, all users


@dataclass(frozen=True)
class Table:
    """Rows of the results file, and differences between them."""

    rows: list[dict[str, str | int | float]]
    differences: Differences  # of COMPARED and COMPARED_PREFIXES, paired by user
    own_prefix_recall: Interval  # of the online model's own prefixes, as many as C_u has


def summarise(
    outcomes: Mapping[str, Outcome], has_own_prefix_U: NDArray[np.float64], *, seed: int
) -> Table:
    """Return means and 95% intervals; one bootstrap for all columns pairs the differences."""
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name, outcome in outcomes.items():
        for k in CUTOFFS:
            columns[name, f"recall@{k}"] = recall_at(outcome.rank_U, k)
            columns[name, f"ndcg@{k}"] = ndcg_at(outcome.rank_U, k)
        columns[name, "prefix_recall"] = outcome.coverage.has_target_U.astype(np.float64)
    columns[OWN, "prefix_recall"] = has_own_prefix_U
    compared = [(one, other, metric) for one, other in COMPARED for metric in METRICS]
    compared += [(one, other, "prefix_recall") for one, other in COMPARED_PREFIXES]
    paired = {
        (f"{one} minus {other}", metric): columns[one, metric] - columns[other, metric]
        for one, other, metric in compared
        if {(one, metric), (other, metric)} <= set(columns)
    }
    by_column = bootstrap_named(columns | paired, seed=seed)
    differences: Differences = {}
    for name, metric in paired:
        differences.setdefault(name, {})[metric] = by_column[name, metric]
    return Table(
        rows=[_row(name, outcome, by_column) for name, outcome in outcomes.items()],
        differences=differences,
        own_prefix_recall=by_column[OWN, "prefix_recall"],
    )


def _row(
    name: str, outcome: Outcome, intervals: Mapping[tuple[str, str], Interval]
) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {"name": name}
    for column in (*METRICS, "prefix_recall"):
        row |= intervals[name, column].columns(column)
    coverage = outcome.coverage
    row["prefixes"] = float(coverage.prefixes_U.mean())
    row["fan_out"] = float(coverage.items_U.sum() / max(1, coverage.prefixes_U.sum()))
    row["seconds"] = outcome.seconds
    return row
