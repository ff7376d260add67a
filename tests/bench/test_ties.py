"""Shuffled ties: only inside days, by the seed alone, and no learnt item becomes a target."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.common.leave_one_out import Split, cut_histories
from bench.common.ties import shuffle_ties, split_ties
from bench.quality.quality import main
from models.catalog.dataset import Dataset, Interaction
from models.errors import InvalidDataset
from models.release.release import Release
from tests.bench.test_protocol import DAY
from tests.bench.test_quality import NIGHT_ROWS, PLAIN_ROWS, write_dataset
from tests.fakes.toy import toy_catalog

CATALOG = toy_catalog()


def make_days(*sizes: int, num_users: int = 30) -> Dataset:
    """Users with the same items; day after day has so many of them."""
    days = [day for day, size in enumerate(sizes) for _ in range(size)]
    events = [Interaction(CATALOG.item_ids[at], DAY * day, 10 * at) for at, day in enumerate(days)]
    return Dataset({f"u{user:02}": list(events) for user in range(num_users)}, {})


def orders(dataset: Dataset) -> list[list[str]]:
    return [[event.item_id for event in events] for events in dataset.histories.values()]


def test_items_move_inside_their_day_only() -> None:
    dataset = make_days(1, 4, 1, 2)
    shuffled = shuffle_ties(dataset, seed=0, bounds=())
    places: list[set[str]] = [set() for _ in range(8)]
    for user, events in shuffled.histories.items():
        old = dataset.histories[user]
        assert [(event.timestamp, event.pos) for event in events] == [
            (event.timestamp, event.pos) for event in old
        ]
        assert {(event.item_id, event.day) for event in events} == {
            (event.item_id, event.day) for event in old
        }
        for at, event in enumerate(events):
            places[at].add(event.item_id)
    assert [len(found) for found in places] == [1, 4, 4, 4, 4, 1, 2, 2]


def test_the_seed_alone_decides() -> None:
    dataset = make_days(5, 5)
    backwards = Dataset(dict(reversed(dataset.histories.items())), {})
    first = orders(shuffle_ties(dataset, seed=3, bounds=()))
    assert orders(shuffle_ties(backwards, seed=3, bounds=())) == first
    assert orders(shuffle_ties(dataset, seed=4, bounds=())) != first
    assert len({tuple(order) for order in first}) > 20  # users have orders of their own


def test_no_event_crosses_a_bound() -> None:
    ids = CATALOG.item_ids
    for order in orders(shuffle_ties(make_days(6), seed=0, bounds=(-2,))):
        assert set(order[:4]) == set(ids[:4])
        assert set(order[4:]) == set(ids[4:6])


def test_data_without_times_have_no_ties() -> None:
    with pytest.raises(InvalidDataset, match="timestamp"):
        shuffle_ties(Dataset({}, {}, has_times=False), seed=0, bounds=())


@pytest.mark.parametrize(
    ("split", "targets"), [("test", {4, 5}), ("valid", {4})], ids=["test", "valid"]
)
def test_no_learnt_item_becomes_a_target_and_the_rest_of_the_day_is_shuffled(
    split: Split, targets: set[int]
) -> None:
    dataset = make_days(6)
    for_training, for_cases = split_ties(dataset, split, seed=0)
    assert all(set(order[:4]) == set(CATALOG.item_ids[:4]) for order in orders(for_training))
    cases = cut_histories(for_cases, CATALOG, split=split)
    assert {case.target for case in cases} == targets
    assert all(case.num_today == len(case.seen) for case in cases)
    last = {case.seen[-1] for case in cases}
    assert {0, 1, 2, 3} <= last


def test_rows_with_shuffled_ties_have_a_suffix_and_others_stay(
    release: Release, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--no-thoughts"]
    tables: dict[str | None, dict[str, Any]] = {}
    for seed in ("5", "5", "6", None):
        file = tmp_path / "table.json"
        shuffles = ["--ties", seed] if seed else []
        assert main([*arguments, *shuffles, "--json", str(file)]) == 0
        rows = json.loads(file.read_text())["rows"]
        found = {row.pop("name"): row for row in rows}
        for row in rows:
            row.pop("seconds")
        assert tables.setdefault(seed, found) == found
    plain = tables[None]
    assert set(tables["5"]) == set(plain) | {f"{name}_ties" for name in (*PLAIN_ROWS, *NIGHT_ROWS)}
    assert {name: tables["5"][name] for name in plain} == plain
    assert tables["5"]["counts_ties"] != plain["counts"]
    assert tables["5"]["counts_ties"] != tables["6"]["counts_ties"]
