"""The held-out table: means, paired differences, and which models must not be published."""

import math

import numpy as np
import pytest

from training.held_out_table import (
    COUNTS,
    MEMORY,
    ONLINE,
    ONLINE_NO_MEMORY,
    POPULARITY,
    TWO_TIERS,
    Ranks,
    cells,
    make_table,
    shortfalls,
    to_markdown,
)


def table_of(online: list[float], popularity: list[float], counts: list[float]) -> dict[str, Ranks]:
    ranks = {POPULARITY: popularity, COUNTS: counts, MEMORY: counts}
    ranks |= {ONLINE_NO_MEMORY: online, ONLINE: online}
    return {name: np.array(values) for name, values in {**ranks, TWO_TIERS: online[:2]}.items()}


def test_figures_are_means_with_standard_errors() -> None:
    table = make_table(table_of([1, 3, 11, np.inf], [2] * 4, [np.inf] * 4), repeats=0.25)
    online = table["rows"][ONLINE]
    assert online["recall@10"] == 0.5
    assert online["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert online["recall@10_se"] == pytest.approx(math.sqrt(1 / 3) / 2, abs=1e-6)
    assert (table["users"], table["repeats"], table["rows"][TWO_TIERS]["users"]) == (4, 0.25, 2)
    assert table["differences"]["online - counts"]["ndcg@10"] == online["ndcg@10"]


def test_a_difference_is_paired_over_the_users_of_both_rows() -> None:
    """Equal rows differ by nothing, however much their users do; both tiers have two users."""
    table = make_table(table_of([1, np.inf, 5, 7], [1, np.inf, 5, 7], [2] * 4), repeats=0)
    assert table["differences"]["online - popularity"]["ndcg@10_se"] == 0
    assert table["differences"]["two_tiers_at_once - online"]["users"] == 2


def test_a_model_below_a_simple_row_falls_short_of_it() -> None:
    good = make_table(table_of([1, 2], [2, 2], [1, 2]), repeats=0)
    assert shortfalls(good) == []
    (said,) = shortfalls(make_table(table_of([1, 2], [2, 2], [1, 1]), repeats=0))
    assert said.startswith("the online model has NDCG@10 0.8155, counts of item pairs 1.0000")
    assert "difference -0.1845, standard error 0.1845" in said
    assert len(shortfalls(make_table(table_of([9, 9], [2, 2], [1, 1]), repeats=0))) == 2


def test_the_table_is_written_in_words() -> None:
    table = make_table(table_of([1, 2], [2, 2], [1, 2]), repeats=0)
    assert next(iter(cells(table)))[:3] == ("popularity", "2", "1.0000 ± 0.0000")
    assert "| two tiers, without thoughts | 2 | 1.0000 ± 0.0000 | 0.8155 ± 0.1845 |" in (
        to_markdown(table)
    )
