"""The time split against a replay by loops that counts again before every prediction."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.__main__ import EX_CONFIG
from bench.__main__ import main as bench
from bench.quality.timeline.arms import (
    LIVE_COUNTS,
    Arm,
    CountsArm,
    CountState,
    OnlineArm,
    PopularityArm,
    online_arms,
)
from bench.quality.timeline.replay import Judged, replay, summarise_arms
from bench.quality.timeline.time_split import main, reported_cpu_s
from bench.quality.timeline.user_days import TimeSplit, UserDay, split_time
from models.catalog.candidates import Candidates
from models.catalog.dataset import Dataset, Interaction, ItemText, load_dataset
from models.errors import InvalidDataset, InvalidInput, InvalidSettings, ReleaseMismatch
from models.online.memory.live_counts import LiveCounts
from models.release.release import Release
from tests.bench.test_protocol import DAY, HISTORIES, SETTINGS, evidence_by_loops
from tests.bench.test_quality import toy_finisher, write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog

ITEMS = 14


def random_dataset(*, seed: int = 0) -> Dataset:
    """Twelve users of up to twelve items, about two events a day; no item twice for a user."""
    rng = np.random.default_rng(seed)
    histories = {}
    for user in range(12):
        rows = rng.choice(ITEMS, size=int(rng.integers(1, 13)), replace=False)
        days = np.sort(rng.integers(0, 6, size=len(rows)))
        histories[f"u{user:02}"] = [
            Interaction(f"i{row:02}", DAY * int(day), pos)
            for pos, (row, day) in enumerate(zip(rows, days, strict=True))
        ]
    items = {f"i{row:02}": ItemText(None, None, ()) for row in range(ITEMS)}
    return Dataset(histories, items)


def small_dataset() -> Dataset:
    histories = {
        "a": [(0, 1), (1, 1), (2, 5), (3, 6), (1, 6)],
        "b": [(4, 1), (5, 2), (6, 2), (7, 2)],
        "c": [(8, 6)],
    }
    events = {
        user: [Interaction(f"i{row}", DAY * day, pos) for pos, (row, day) in enumerate(rows)]
        for user, rows in histories.items()
    }
    return Dataset(events, {f"i{row}": ItemText(None, None, ()) for row in range(9)})


def test_the_split_is_at_a_day_and_a_users_day_is_predicted_from_the_days_before() -> None:
    split = split_time(small_dataset(), share=0.5)  # the sixth of ten events is of day 2
    assert split.last_day == 2
    assert split.learnt == [(0, 1), (4, 5, 6, 7), ()]
    assert split.days == [
        [UserDay("a", (0, 1), 2, (2,), 5)],
        [UserDay("a", (0, 1, 2), 2, (3, 1), 6), UserDay("c", (), 0, (8,), 6)],
    ]
    assert [day.targets for days in split.days for day in days] == [(2,), (3,), ()]
    assert split.times_learnt().tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 0]


def test_data_without_times_or_without_a_later_day_cannot_be_split() -> None:
    dataset = small_dataset()
    with pytest.raises(InvalidDataset, match="timestamp"):
        split_time(Dataset(dataset.histories, dataset.items, has_times=False), share=0.5)
    with pytest.raises(InvalidDataset, match="no event after day 6"):
        split_time(dataset, share=0.99)


Ranks = dict[str, list[float]]


def rank_by_loops(split: TimeSplit) -> Ranks:
    """Replay; before each prediction everything is counted again from the events learnt."""
    frozen = [list(history) for history in split.learnt]
    daily = [list(history) for history in split.learnt]
    event = [list(history) for history in split.learnt]
    number = {user: at for at, user in enumerate(sorted(random_dataset().histories))}
    ranks: Ranks = {"popularity": [], "counts_frozen": [], "counts": []}
    ranks |= {"counts_daily": [], "counts_event": []}
    for days in split.days:
        for day in days:
            old = day.history[: day.num_old]
            for target in day.targets:
                ranks["popularity"].append(place(frozen, (), day, target))
                ranks["counts_frozen"].append(place(frozen, old, day, target))
                ranks["counts"].append(place(frozen, day.history, day, target))
                ranks["counts_daily"].append(place(daily, day.history, day, target))
                ranks["counts_event"].append(place(event, day.history, day, target))
            event[number[day.user_id]] += day.items
        for day in days:
            daily[number[day.user_id]] += day.items
    return ranks


def place(learnt: list[list[int]], history: tuple[int, ...], day: UserDay, target: int) -> float:
    """Sort unseen items by evidence of `history`, then popularity, then row."""
    popularity = Counter(row for items in learnt for row in items)
    evidence = [evidence_by_loops(learnt, history, item, LIVE_COUNTS) for item in range(ITEMS)]
    unseen = [item for item in range(ITEMS) if item not in day.history]
    ranked = sorted(unseen, key=lambda item: (-round(evidence[item], 9), -popularity[item], item))
    return ranked.index(target) + 1.0


@pytest.mark.parametrize("history", [[0], [1, 3], [5, 2, 4], [6], []])
def test_counts_grow_event_by_event_as_if_whole_histories_were_counted(history: list[int]) -> None:
    """Item 6 is never counted; item 1 has pairs from the beginning and later ones."""
    grown = LiveCounts.of_histories([items[:2] for items in HISTORIES], 7, SETTINGS)
    for items in HISTORIES:
        for at in range(2, len(items)):
            grown.add(items[:at], items[at])
    expected = [evidence_by_loops(HISTORIES, history, item) for item in range(7)]
    for counts in (grown, LiveCounts.of_histories(HISTORIES, 7, SETTINGS)):
        assert counts.evidence(history).tolist() == pytest.approx(expected)


def replay_all(split: TimeSplit) -> Judged:
    frozen, daily, event = (CountState(split) for _ in range(3))
    arms: dict[str, Arm] = {
        "popularity": PopularityArm(frozen),
        "counts_frozen": CountsArm(frozen, is_fresh=False),
        "counts": CountsArm(frozen, is_fresh=True),
        "counts_daily": CountsArm(daily, is_fresh=True),
        "counts_event": CountsArm(event, is_fresh=True),
    }
    return replay(split, arms, daily=[daily], immediate=[event], on_progress=lambda _: None)


def test_the_replay_equals_loops_that_count_anew() -> None:
    split = split_time(random_dataset(), share=0.5)
    judged = replay_all(split)
    assert {name: rank_E.tolist() for name, rank_E in judged.rank_E.items()} == rank_by_loops(split)
    assert len(judged.user_E) > 20
    names = ("counts_frozen", "counts", "counts_daily", "counts_event")
    assert len({tuple(judged.rank_E[name]) for name in names}) == 4


def test_rows_of_groups_are_means_over_their_events_and_differences_are_paired() -> None:
    ranks = {"one": np.array([1.0, 11, 2, 1]), "other": np.array([11.0, 11, 1, math.inf])}
    judged = Judged(ranks, np.array([0, 0, 1, 2]), np.array([0, 4, 5, 0]))
    rows, differences = summarise_arms(judged, [("one", "other"), ("one", "absent")], seed=0)
    one = {name: value for name, value in rows[0].items() if not name.endswith(("_low", "_high"))}
    assert one["name"] == "one"
    assert one["recall@10"] == 0.75
    assert (one["recall@10_5_and_more"], one["recall@10_1_to_4"], one["recall@10_never"]) == (
        1,
        0,
        1,
    )
    assert one["ndcg@10_5_and_more"] == pytest.approx(1 / math.log2(3))
    assert set(differences) == {"one minus other"}
    found = differences["one minus other"]
    assert found["recall@10"].mean == 0.5
    assert found["recall@10_never"].mean == 1
    assert found["ndcg@10_1_to_4"].mean == 0


def test_an_empty_group_has_no_columns() -> None:
    judged = Judged({"one": np.array([1.0])}, np.array([0]), np.array([7]))
    (row,), _ = summarise_arms(judged, [], seed=0)
    assert "recall@10_5_and_more" in row
    assert not any("never" in column or "1_to_4" in column for column in row)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_the_online_arm_ranks_as_the_finish_does(is_fresh: bool) -> None:
    """Two items are not in the catalog: one is no history, and the other cannot be ranked."""
    catalog = toy_catalog()
    item_ids = (*reversed(catalog.item_ids), "unknown", "unknown too")
    last = len(catalog)
    history = [3, 9, 4]
    rows = [last - 1 - item for item in (history if is_fresh else history[:1])]
    seen = [last - 1 - item for item in history]
    finisher = toy_finisher(catalog)
    best = finisher.finish(finisher.encode(rows), Candidates(catalog.trie), k=10, exclude=seen)
    place = {item.row: at for at, item in enumerate(best, start=1)}
    items = (7, last, last - 1 - best[0].row, last - 1 - best[4].row)
    arm = OnlineArm(toy_finisher(catalog), catalog, item_ids, is_fresh=is_fresh)
    expected = [place.get(last - 1 - item, math.inf) for item in items]
    assert expected[2:] == [1, 5]
    assert arm.rank(UserDay("u", (3, last + 1, 9, 4), 1, items, 6)) == expected


def test_a_release_trained_on_later_events_is_refused(release: Release) -> None:
    catalog = release.catalog
    times = np.maximum(catalog.popularity, 0).tolist()
    learnt = [(row,) * number for row, number in enumerate(times)]
    split = TimeSplit(catalog.item_ids, 5, learnt, [])
    assert set(online_arms(release, split)) == {"frozen", "history_only"}
    most = int(np.argmax(catalog.popularity))
    learnt[most] = (most,) * (times[most] - 1)
    with pytest.raises(ReleaseMismatch, match=repr(catalog.item_ids[most])):
        online_arms(release, split)


def test_time_split_writes_every_arm_and_group(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", toy_catalog())
    file = tmp_path / "table.json"
    assert main(["--data", str(data), "--share", "0.6", "--json", str(file)]) == 0
    table = json.loads(file.read_text())
    assert [row["name"] for row in table["rows"]] == [
        "popularity",
        "popularity_daily",
        "counts_frozen",
        "counts",
        "counts_daily",
        "counts_event",
    ]
    assert_simple_rows("time-split", table["rows"])
    learning = {row["name"] for row in table["rows"] if "cpu_s" in row}
    assert learning == {"counts_daily", "counts_event"}
    for row in table["rows"]:
        assert row["recall@10_low"] <= row["recall@10"] <= row["recall@10_high"]
    events = table["meta"]["events"]
    assert events["all"] == sum(events.values()) - events["all"] > 0
    assert "recall@10" in table["meta"]["differences"]["counts_event minus counts"]


def test_the_cpu_of_a_learner_is_that_of_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"day": 1, "cpu_s": 0.5}\n{"day": 2}\n{"day": 3, "cpu_s": 1.25}\n')
    assert reported_cpu_s(file) == 1.75
    file.write_text("no lines\n")
    with pytest.raises(InvalidInput, match="not the lines of a learner"):
        reported_cpu_s(file)


def test_days_before_the_first_judged_one_are_learnt() -> None:
    split = split_time(random_dataset(), share=0.5)
    state = CountState(split)
    last = split.days[-1][0].day
    judged = replay(
        split,
        {"counts": CountsArm(state, is_fresh=True)},
        daily=[state],
        immediate=[],
        on_progress=lambda _: None,
        first_day=last,
    )
    whole = rank_by_loops(split)["counts_daily"]
    assert 0 < len(judged.rank_E["counts"]) < len(whole)
    assert judged.rank_E["counts"].tolist() == whole[-len(judged.rank_E["counts"]) :]


def test_a_share_outside_0_and_1_and_data_without_times_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidSettings, match=r"--share 1\.0"):
        main(["--share", "1"])
    data = write_dataset(tmp_path / "data", toy_catalog())
    file = data / "interactions.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["timestamp"]), file)
    assert not load_dataset(data).has_times
    assert bench(["time-split", "--data", str(data)]) == EX_CONFIG
    assert "timestamp" in capsys.readouterr().err
