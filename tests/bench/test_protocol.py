"""Protocol of the quality table: days, item age, counts, on histories made by hand."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.common.leave_one_out import Case, cut_histories, learnt_histories
from bench.quality.quality import main
from bench.quality.ranking.counts_row import CountsRow, all_neighbours
from bench.quality.ranking.prefix_map import PrefixMap
from bench.quality.ranking.quality_rows import Outcome, summarise
from bench.quality.ranking.row_sets import count_trained
from bench.quality.ranking.target_groups import group_targets
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, Interaction, load_dataset
from models.online.memory.memory_settings import MemorySettings
from models.reasoner.think import UserHistory
from models.release.release import Release
from tests.bench.test_quality import NIGHT_ROWS, PLAIN_ROWS, write_dataset
from tests.fakes.toy import toy_catalog

DAY = 86_400
# User -> (row of the toy catalog, day) of each event.
EVENTS = {
    "same": [(0, 1), (1, 2), (2, 2), (3, 2)],
    "other": [(0, 1), (1, 1), (2, 1), (4, 2)],
    "midnight": [(5, 1), (6, 2), (7, 3)],
    "short": [(0, 1), (1, 1)],
}


def make_dataset(catalog: Catalog, *, has_times: bool = True) -> Dataset:
    histories = {
        user: [
            # The last second of a day and the first of the next one are two days.
            Interaction(catalog.item_ids[row], DAY * day + (DAY - 1 if day == 2 else 0), pos)
            for pos, (row, day) in enumerate(events)
        ]
        for user, events in EVENTS.items()
    }
    return Dataset(histories, {}, has_times)


def cases_by_user(dataset: Dataset, catalog: Catalog) -> dict[str, Case]:
    return {case.history.user_id: case for case in cut_histories(dataset, catalog, split="test")}


def test_a_case_counts_the_items_before_the_target_on_its_day() -> None:
    catalog = toy_catalog()
    cases = cases_by_user(make_dataset(catalog), catalog)
    assert {user: case.num_today for user, case in cases.items()} == {
        "same": 2,
        "other": 0,
        "midnight": 0,
    }
    assert [user for user, case in cases.items() if case.is_same_day] == ["same"]


def test_without_times_no_target_shares_a_day() -> None:
    catalog = toy_catalog()
    cases = cases_by_user(make_dataset(catalog, has_times=False), catalog)
    assert not any(case.is_same_day for case in cases.values())


def test_a_data_folder_tells_if_it_has_times(tmp_path: Path) -> None:
    dataset = load_dataset(write_dataset(tmp_path, toy_catalog()))
    assert dataset.has_times
    assert {event.day for event in dataset.histories["user-1"][:3]} == {0}


def test_a_short_history_is_learnt_whole_and_others_without_their_targets() -> None:
    catalog = toy_catalog()
    dataset = make_dataset(catalog)
    assert learnt_histories(dataset, catalog) == [(0, 1), (0, 1), (5,), (0, 1)]
    assert learnt_histories(dataset, catalog, held_out=1) == [(0, 1, 2), (0, 1, 2), (5, 6), (0, 1)]
    trained = count_trained(dataset, catalog)
    assert trained[:6].tolist() == [3, 3, 0, 0, 0, 1]


def test_groups_by_day_and_by_age_are_those_of_the_targets() -> None:
    trained_N = np.array([0, 1, 3, 4])
    rows = [(0, 1), (1, 0), (2, 2), (3, 0), (None, 0)]
    cases = [Case(UserHistory("u", ()), (), target, today) for target, today in rows]
    found = {name: has_U.tolist() for name, has_U in group_targets(cases, trained_N).items()}
    assert found == {
        "same_day": [True, False, True, False, False],
        "other_day": [False, True, False, True, True],
        "trained_never": [True, False, False, False, True],
        "trained_1_to_3": [False, True, True, False, False],
        "trained_more": [False, False, False, True, False],
    }


def test_columns_of_a_group_are_means_over_its_users_and_differences_are_paired_in_it() -> None:
    catalog = toy_catalog()
    everything = PrefixMap(catalog).cover_everything(np.zeros(4, dtype=np.int64))
    ranks = {"online": [1.0, 20.0, 3.0, math.inf], "counts": [20.0, 1.0, 1.0, 1.0]}
    outcomes = {name: Outcome(np.array(rank), everything, 0.0) for name, rank in ranks.items()}
    is_in_U = np.array([True, True, False, True])
    table = summarise(outcomes, {"some": is_in_U, "none": np.zeros(4, dtype=bool)}, seed=0)
    online, counts = table.rows
    assert (online["recall@10"], counts["recall@10"]) == (0.5, 0.75)
    assert online["recall@10_some"] == pytest.approx(1 / 3)
    assert counts["ndcg@10_some"] == pytest.approx(2 / 3)
    assert not any("none" in column for column in online)
    difference = table.differences["online minus counts"]["recall@10_some"]
    assert difference.mean == pytest.approx(-1 / 3)
    assert difference.low < difference.mean < difference.high
    assert table.own_prefix_recall is None


HISTORIES = [[0, 1, 2, 3], [3, 1, 0], [2, 0, 1, 3, 2, 4, 5], [4], []]
SETTINGS = MemorySettings(window=2, backward=0.3, shrink=4.0, later_power=0.4, recent=3, decay=0.5)


def evidence_by_loops(
    histories: Sequence[Sequence[int]],
    history: Sequence[int],
    item: int,
    settings: MemorySettings = SETTINGS,
) -> float:
    """Evidence for one item, pair by pair."""
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    for items in histories:
        for at, one in enumerate(items):
            for other_at in range(at + 1, min(at + settings.window, len(items) - 1) + 1):
                weight = 1 / (other_at - at)
                pairs[one, items[other_at]] += weight
                pairs[items[other_at], one] += weight * settings.backward
    total = 0.0
    for age, row in enumerate(history[::-1][: settings.recent]):
        out = sum(weight for (one, _), weight in pairs.items() if one == row)
        into = sum(weight for (_, other), weight in pairs.items() if other == item)
        shrunk = (out + settings.shrink) ** settings.item_power
        shrunk *= (into + settings.shrink) ** settings.later_power
        total += settings.decay**age * pairs[row, item] / shrunk
    return total


@pytest.mark.parametrize("history", [[0], [1, 3], [5, 4, 3, 2, 1, 0], [6], []])
def test_counts_rank_by_evidence_counted_pair_by_pair(history: list[int]) -> None:
    row = CountsRow(all_neighbours(HISTORIES, 7, SETTINGS), np.zeros(7, dtype=np.int64))
    evidence = [evidence_by_loops(HISTORIES, history, item) for item in range(7)]
    unseen = [item for item in range(7) if item not in history]
    order = sorted(unseen, key=lambda item: (-round(evidence[item], 6), item))
    rows = tuple(history)
    ranks = [row.rank(Case(UserHistory("u", rows), rows, target)) for target in order]
    assert ranks == list(range(1, len(order) + 1))


def test_counts_rank_by_evidence_then_popularity_then_row() -> None:
    """Items 4, 5 and 6 have no evidence; 6 is the most popular of them, 5 and 4 are equal."""
    neighbours = all_neighbours([[0, 1], [0, 2], [0, 2], [0, 3]], 7, SETTINGS)
    row = CountsRow(neighbours, np.array([9, 1, 2, 5, 1, 1, 3]))
    order = [2, 3, 1, 6, 4, 5]  # 1 and 3 have equal evidence, 3 is more popular
    history = UserHistory("u", (0,))
    ranks = [row.rank(Case(history, (0,), target)) for target in order]
    assert ranks == [1, 2, 3, 4, 5, 6]
    assert row.rank(Case(history, (0,), 0)) == math.inf
    assert row.rank(Case(history, (0,), None)) == math.inf


def test_no_thoughts_computes_the_plain_rows_and_no_cache(release: Release, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--no-thoughts"]
    file = tmp_path / "table.json"
    assert main([*arguments, "--cache", str(tmp_path / "cache"), "--json", str(file)]) == 0
    table = json.loads(file.read_text())
    assert [row["name"] for row in table["rows"]][: len(PLAIN_ROWS)] == PLAIN_ROWS
    assert {row["name"] for row in table["rows"] if "two_tier" in row["name"]} == {*NIGHT_ROWS[1:]}
    assert not (tmp_path / "cache").exists()
    same = table["meta"]["groups"]["same_day"] / table["meta"]["users"]
    for row in table["rows"]:
        parts = (row["recall@10_same_day"], row["recall@10_other_day"])
        assert row["recall@10"] == pytest.approx(parts[0] * same + parts[1] * (1 - same))
    assert "online minus counts" in table["meta"]["differences"]
