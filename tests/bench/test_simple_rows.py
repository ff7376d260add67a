"""Rows too simple to lose, of each command of `bench` that prints a table of quality.

The end-to-end test of each command passes its rows to `assert_simple_rows`.
"""

from collections.abc import Sequence
from typing import Any

from bench.__main__ import COMMANDS
from bench.quality.ranking.two_tiers import SILENT

RANKING = {"popularity", "counts"}
SIMPLE_ROWS = {
    "quality": {*RANKING, "reasoner_at_once", "two_tier_popular_prefixes"},
    "stages": {*RANKING, "r_silent"},
    "evidence": {*RANKING, "popular", "evidence alone"},
    "thought-words": {"empty", "shuffled"},
    "faithfulness": {
        *("pair_newest", "pair_random", "pair_as_popular", "delete_newest", "delete_random"),
    },
    "frontier": {*RANKING, f"T=1 m=3{SILENT}", f"T=2 m=3{SILENT}"},
    "staleness": {*RANKING, f"0 ago{SILENT}", f"4 ago{SILENT}"},
    "time-split": {"popularity", "counts_frozen", "counts"},
    "reasoner-days": {*RANKING, "frozen", "popularity_recent"},
    "wishes": {"popularity", "none"},
    "understanding": {"item: random", "user: random", "persona: random"},
    "baseline": RANKING,
    "table1": RANKING,
}
# Commands that measure time, memory, promises, SIDs or an experiment with a control arm of its own.
NO_RANKING = {
    *("refresh", "finish", "scale", "exact", "sids", "trie", "latency", "path", "ab", "million"),
    *("workers", "freshness", "footprint", "sizing", "chaos", "soak", "scenario", "tables", "demo"),
}


def assert_simple_rows(command: str, rows: Sequence[dict[str, Any]]) -> None:
    assert SIMPLE_ROWS[command] <= {row["name"] for row in rows}


def test_every_command_either_has_rows_too_simple_to_lose_or_ranks_nothing() -> None:
    assert set(SIMPLE_ROWS) | NO_RANKING == set(COMMANDS)
    assert not set(SIMPLE_ROWS) & NO_RANKING
