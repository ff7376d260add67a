"""Days judged by the newest reasoner that has not learnt them, beside popular prefixes."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.quality.timeline.reasoner_days import ask_days, learnt_day, main, simple_columns
from models.catalog.dataset import Dataset, Interaction, load_dataset
from models.errors import InvalidRelease
from models.reasoner.next_items import Judged
from models.release.release import Release
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy_learner import toy_dataset, write_toy_data
from training.reasoner_day.reasoner_release import write_release

DAY_S = 24 * 3600


@pytest.fixture
def data(release: Release, tmp_path: Path) -> Path:
    """The n-th event of a user is on day n."""
    dataset = toy_dataset(release.catalog)
    histories = {
        user: [replace_time(event) for event in events]
        for user, events in dataset.histories.items()
    }
    write_toy_data(replace(dataset, histories=histories), tmp_path / "data")
    return tmp_path / "data"


def replace_time(event: Interaction) -> Interaction:
    return event._replace(timestamp=DAY_S * event.pos)


def test_each_day_is_asked_for_with_the_history_before_it(release: Release, data: Path) -> None:
    dataset, catalog = load_dataset(data), release.catalog
    asked = ask_days(dataset, catalog, 2, 3, is_held_out=False)
    assert [day for day, _ in asked] == [2, 3]
    found = {(user.user_id, user.rows, target) for _, asks in asked for user, target in asks}
    expected = set()
    for user, events in dataset.histories.items():
        rows = catalog.rows([event.item_id for event in events])
        expected |= {(user, rows[:at], rows[at]) for at in (2, 3) if at < len(rows)}
    assert found == expected
    last = ask_days(dataset, catalog, 2, 3, is_held_out=True)
    held_out = {user for user, events in dataset.histories.items() if len(events) in (3, 4)}
    assert {user.user_id for user, _ in last[0].questions} == held_out


def test_popular_prefixes_are_those_of_the_days_before(release: Release, data: Path) -> None:
    dataset, catalog = load_dataset(data), release.catalog
    asked = ask_days(dataset, catalog, 3, 4, is_held_out=False)
    num = sum(len(day.questions) for day in asked)
    columns = simple_columns(dataset, release, asked, [Judged(0.0, 0.0, False, 5, 1, 1)] * num)
    expected = []
    for day, questions in asked:
        counted = popularity(dataset, release, day)
        for question in questions:
            own = counted[tuple(catalog.sids[question.target, :2].tolist())]
            expected.append(float(sum(count > own for count in counted.values()) < 5))
    assert columns["popularity", "prefix_recall"].tolist() == expected
    assert all(len(values) == num for values in columns.values())
    assert np.exp(columns["popularity_recent", "prefix_logprob"]).max() < 1


def popularity(dataset: Dataset, release: Release, day: int) -> Counter[tuple[int, ...]]:
    catalog = release.catalog
    events = [event for events in dataset.histories.values() for event in events]
    rows = catalog.rows([event.item_id for event in events if event.day < day])
    return Counter(tuple(catalog.sids[row, :2].tolist()) for row in rows)


def test_a_reasoner_judges_no_day_that_it_has_learnt(
    release: Release, data: Path, tmp_path: Path
) -> None:
    day = {"until": f"{1000 * DAY_S * 2}-0", "events": 1}
    write_release(tmp_path / "learnt", release, release.reasoner_dir, day, name="learnt")
    assert learnt_day(Release.load(tmp_path / "learnt")) == 2
    with pytest.raises(InvalidRelease, match="learnt no day"):
        learnt_day(release)
    code = main(
        [
            *("--release", str(release.directory), "--data", str(data)),
            *("--learnt", str(tmp_path / "learnt"), "--from-day", "2", "--to-day", "3"),
            *("--paths", "1", "--width", "3", "--json", str(tmp_path / "days.json")),
        ]
    )
    assert code == 0
    found = json.loads((tmp_path / "days.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert "daily" in rows
    assert_simple_rows("reasoner-days", found["rows"])
    # The same weights: the difference is that of nothing.
    assert found["meta"]["differences"]["daily minus frozen"]["prefix_logprob"]["mean"] == 0
    assert found["meta"]["reasoners"] == 1
