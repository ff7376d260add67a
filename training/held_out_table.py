"""The held-out table: means over users with standard errors, and the gate of publishing.

A model that ranks below popularity or below its own counts is not published unless it is forced.
NDCG@10 decides, by the mean alone; the standard error of the difference stands beside it. Knows
ranks; knows nothing of models.
"""

# U = users

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP = 10
Ranks = NDArray[np.float64]  # (U,), 1 is best; infinity beyond the first ten or without a rank
POPULARITY, COUNTS, MEMORY = "popularity", "counts", "memory"
ONLINE_NO_MEMORY, ONLINE, TWO_TIERS = "online_no_memory", "online", "two_tiers_at_once"
_METRIC = "ndcg@10"  # that decides
_COMPARED = (
    (ONLINE, POPULARITY),
    (ONLINE, COUNTS),
    (ONLINE, MEMORY),
    (ONLINE, ONLINE_NO_MEMORY),
    (TWO_TIERS, ONLINE),
)
_CAPTIONS = {
    POPULARITY: "popularity",
    COUNTS: "counts of item pairs",
    MEMORY: "memory alone: counts and texts",
    ONLINE_NO_MEMORY: "online model without memory",
    ONLINE: "online model",
    TWO_TIERS: "two tiers, without thoughts",
}

Table = Mapping[str, Any]  # as in `held_out.json`


def make_table(ranks: Mapping[str, Ranks], *, repeats: float) -> dict[str, Any]:
    """Summarise rows of ranks over the same users; a shorter row has the first of them.

    Args:
        repeats: share of targets that stand in the history; every row misses them.
    """
    return {
        "users": max(map(len, ranks.values())),
        "repeats": repeats,
        "rows": {name: _figures(rank_U) for name, rank_U in ranks.items()},
        "differences": {
            f"{one} - {other}": _difference(ranks[one], ranks[other]) for one, other in _COMPARED
        },
    }


def shortfalls(table: Table) -> list[str]:
    """Say below which simple rows the online model ranks; empty for a model to publish."""
    rows, found = table["rows"], []
    for simple in (POPULARITY, COUNTS):
        own, other = rows[ONLINE][_METRIC], rows[simple][_METRIC]
        if own < other:
            error = table["differences"][f"{ONLINE} - {simple}"][f"{_METRIC}_se"]
            found.append(
                f"the online model has NDCG@10 {own:.4f}, {_CAPTIONS[simple]} {other:.4f} "
                f"(difference {own - other:+.4f}, standard error {error:.4f})"
            )
    return found


def cells(table: Table) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows in words: name, users, recall@10 and NDCG@10 with standard errors."""
    for name, row in table["rows"].items():
        figures = (f"{row[of]:.4f} ± {row[f'{of}_se']:.4f}" for of in ("recall@10", _METRIC))
        recall, ndcg = figures
        yield _CAPTIONS[name], f"{row['users']:,}", recall, ndcg


def to_markdown(table: Table) -> str:
    lines = ["| | users | recall@10 | NDCG@10 |", "|---|---:|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells(table))])


def _figures(rank_U: Ranks) -> dict[str, float]:
    return {"users": len(rank_U), **_means({"recall@10": _recall(rank_U), _METRIC: _ndcg(rank_U)})}


def _difference(one_U: Ranks, other_U: Ranks) -> dict[str, float]:
    """Return the paired difference over the users that both rows have."""
    num = min(len(one_U), len(other_U))
    one_U, other_U = one_U[:num], other_U[:num]
    columns = {
        "recall@10": _recall(one_U) - _recall(other_U),
        _METRIC: _ndcg(one_U) - _ndcg(other_U),
    }
    return {"users": num, **_means(columns)}


def _means(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    found = {}
    for name, values_U in columns.items():
        found[name] = round(float(values_U.mean()), 6)
        error = values_U.std(ddof=1) / len(values_U) ** 0.5 if len(values_U) > 1 else 0.0
        found[f"{name}_se"] = round(float(error), 6)
    return found


def _recall(rank_U: Ranks) -> NDArray[np.float64]:
    return (rank_U <= TOP).astype(np.float64)


def _ndcg(rank_U: Ranks) -> NDArray[np.float64]:
    return np.where(rank_U <= TOP, 1 / np.log2(1 + rank_U), 0.0)
