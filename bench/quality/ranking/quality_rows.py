"""Rows of the quality table: names, metrics, paired differences.

Knows ranks and prefix coverage of all users. Knows nothing of models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.quality.ranking.paired_differences import Differences
from bench.quality.ranking.prefix_map import Coverage
from bench.quality.ranking.rank_metrics import Interval, bootstrap_named, ndcg_at, recall_at
from bench.quality.ranking.target_groups import Groups

CUTOFFS = (5, 10)
NUM_OWN = 100  # of the online model's own prefixes, in a union
GROUP_METRICS = ("recall@10", "ndcg@10")  # also of each group of users
METRICS = tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in CUTOFFS)
STRICT, UNION = "two_tier_strict", "two_tier_union"
SHUFFLED, POPULAR = "two_tier_shuffled", "two_tier_popular_prefixes"
STRICT_BEFORE, UNION_BEFORE = "two_tier_strict_day_before", "two_tier_union_day_before"
NIGHT_ITEMS = "night_items"  # the night's ridge regression over users and words alone
FUSED = "two_tier_fused"  # by the records of a night, thoughts and all
FUSED_SILENT, FUSED_BEFORE = "two_tier_fused_no_thought", "two_tier_fused_day_before"
THOUGHTS = "two_tier_thoughts"  # C_u of the thoughts alone
SILENT_PREFIXES = "two_tier_strict_no_thought"  # C_u of all sources but the thoughts
OWN = "online_own_prefixes"
AT_ONCE, TIERS_AT_ONCE = "reasoner_at_once", "two_tier_at_once"  # without a thought
REASONER, ONLINE, SASREC = "reasoner", "online", "sasrec"
ONLINE_NO_MEMORY = "online_no_memory"
POPULARITY, COUNTS = "popularity", "counts"  # too simple to lose
MEMORY = "memory"  # the online model's memory alone: counts and similar texts
REFIT, TIES = "_refit", "_ties"  # suffixes of rows
PLAIN = (
    POPULARITY, COUNTS, MEMORY, NIGHT_ITEMS, SASREC, ONLINE_NO_MEMORY, ONLINE, FUSED_SILENT,
    FUSED_BEFORE,
)  # fmt: skip
COMPARED_PLAIN = (  # also with each suffix
    (COUNTS, POPULARITY),
    (ONLINE, COUNTS),
    (ONLINE, MEMORY),
    (ONLINE, ONLINE_NO_MEMORY),
    (ONLINE, SASREC),
    (FUSED_SILENT, ONLINE),
    (FUSED_SILENT, NIGHT_ITEMS),
    (FUSED_BEFORE, ONLINE),
)
COMPARED = (
    *((one + end, other + end) for end in ("", REFIT, TIES) for one, other in COMPARED_PLAIN),
    *((name + REFIT, name) for name in PLAIN),
    (REASONER, AT_ONCE),
    (STRICT, THOUGHTS),
    (STRICT, TIERS_AT_ONCE),
    (STRICT, SILENT_PREFIXES),
    (STRICT, ONLINE),
    (FUSED, ONLINE),
    (FUSED, FUSED_SILENT),
    (FUSED, NIGHT_ITEMS),
    (FUSED, STRICT),
    (UNION, ONLINE),
    (STRICT_BEFORE, STRICT),
    (STRICT_BEFORE, ONLINE),
    (UNION_BEFORE, UNION),
    (UNION_BEFORE, ONLINE),
)
COMPARED_PREFIXES = (  # by prefix recall, with equally many prefixes per user
    (STRICT, SHUFFLED),
    (STRICT, POPULAR),
    (STRICT, OWN),
    (STRICT, SILENT_PREFIXES),
    (STRICT, TIERS_AT_ONCE),
    (SILENT_PREFIXES, OWN),
    (TIERS_AT_ONCE, OWN),
    (STRICT_BEFORE, STRICT),
)


Row = dict[str, str | int | float]
Columns = dict[tuple[str, str], NDArray[np.float64]]  # row or difference, metric -> (U,)


@dataclass(frozen=True)
class Outcome:
    """One row before averaging."""

    rank_U: NDArray[np.float64]  # of each target; infinity if it was not ranked
    coverage: Coverage
    seconds: float  # of ranking and of the models behind it, all users


@dataclass(frozen=True)
class Table:
    """Rows of the results file, and differences between them."""

    rows: list[Row]
    differences: Differences  # of COMPARED and COMPARED_PREFIXES, paired by user
    # Of the online model's own prefixes, as many as C_u has; None without C_u.
    own_prefix_recall: Interval | None


def summarise(
    outcomes: Mapping[str, Outcome],
    groups: Groups,
    *,
    has_own_prefix_U: NDArray[np.float64] | None = None,
    seed: int,
    compared: Sequence[tuple[str, str]] = COMPARED,
) -> Table:
    """Return means and 95% intervals; one bootstrap for all columns pairs the differences.

    A metric of a group has the group's name behind it: `recall@10_same_day`. A group without users
    has no columns.

    Args:
        compared: pairs of rows whose paired differences are wanted.
    """
    columns = _columns(outcomes)
    if has_own_prefix_U is not None:
        columns[OWN, "prefix_recall"] = has_own_prefix_U
    columns |= (paired := _differences(columns, compared))
    intervals = bootstrap_named(columns, seed=seed)
    for group, is_in_U in groups.items():
        inside = {key: values_U[is_in_U] for key, values_U in columns.items() if _is_split(key)}
        found = bootstrap_named(inside, seed=seed) if is_in_U.any() else {}
        intervals |= {(name, f"{metric}_{group}"): found[name, metric] for name, metric in found}
    differences: Differences = {}
    for (name, metric), interval in intervals.items():
        if any(name == paired_name for paired_name, _ in paired):
            differences.setdefault(name, {})[metric] = interval
    return Table(
        rows=[_row(name, outcome, intervals) for name, outcome in outcomes.items()],
        differences=differences,
        own_prefix_recall=intervals.get((OWN, "prefix_recall")),
    )


def _columns(outcomes: Mapping[str, Outcome]) -> Columns:
    columns: Columns = {}
    for name, outcome in outcomes.items():
        for k in CUTOFFS:
            columns[name, f"recall@{k}"] = recall_at(outcome.rank_U, k)
            columns[name, f"ndcg@{k}"] = ndcg_at(outcome.rank_U, k)
        columns[name, "prefix_recall"] = outcome.coverage.has_target_U.astype(np.float64)
    return columns


def _differences(columns: Columns, compared: Sequence[tuple[str, str]]) -> Columns:
    """Return the paired differences for which both rows are there."""
    wanted = [(one, other, metric) for one, other in compared for metric in METRICS]
    wanted += [(one, other, "prefix_recall") for one, other in COMPARED_PREFIXES]
    return {
        (f"{one} minus {other}", metric): columns[one, metric] - columns[other, metric]
        for one, other, metric in wanted
        if {(one, metric), (other, metric)} <= set(columns)
    }


def _is_split(key: tuple[str, str]) -> bool:
    return key[1] in GROUP_METRICS


def _row(name: str, outcome: Outcome, intervals: Mapping[tuple[str, str], Interval]) -> Row:
    row: Row = {"name": name}
    for (owner, column), interval in intervals.items():
        if owner == name:
            row |= interval.columns(column)
    coverage = outcome.coverage
    row["prefixes"] = float(coverage.prefixes_U.mean())
    row["fan_out"] = float(coverage.items_U.sum() / max(1, coverage.prefixes_U.sum()))
    row["seconds"] = outcome.seconds
    return row
