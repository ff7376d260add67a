"""Truth of reasons, measured on a toy release through a real store, nights and a service."""

import json
from pathlib import Path

import pytest

from bench.reasons.explained import Explained
from bench.reasons.faithfulness import main
from bench.reasons.thought_steps import step_rows
from models.reasoner.prompts import topic
from models.store.records import RecordedPrefix
from tests.bench.test_quality import write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog, toy_release


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_reason_of_an_item_holds_more_of_its_score_than_a_random_item(tmp_path: Path) -> None:
    release = toy_release(tmp_path / "release")
    data = write_dataset(tmp_path / "data", release.catalog)
    file = tmp_path / "found.json"
    words = ["--release", str(release.directory), "--data", str(data), "--users", "12"]
    words += ["--paths", "2", "--width", "3", "--cache", str(tmp_path / "cache")]
    assert main([*words, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert_simple_rows("faithfulness", report["rows"])
    assert rows["delete_because"]["drop"] > rows["delete_random"]["drop"]
    assert rows["pair_because"]["bought_together"] > rows["pair_as_popular"]["bought_together"]
    gain = report["meta"]["differences"]["because minus random"]["drop"]["mean"]
    difference = rows["delete_because"]["drop"] - rows["delete_random"]["drop"]
    assert gain == pytest.approx(difference)
    grounds = sum(row["claims"] for name, row in rows.items() if name.startswith("ground_"))
    assert grounds == 10 * report["meta"]["users"]


def test_claims_are_counted_beside_those_of_another_user() -> None:
    catalog = toy_catalog()
    row = 3
    names = [topic(catalog, each) for each in range(len(catalog))]
    name = names[row]
    other = next(each for each in names if each != name)
    prefix = tuple(catalog.sids[row, :2].tolist())
    true = f"The user likes {name}. Next: {name}."
    false = f"The user likes {other}. Next: {other}."
    item = {
        "item_id": catalog.item_ids[row],
        "path": 0,
        "reason": {"ground": "memory", "thought": {"path": 0, "topic": name}},
    }
    wrong = item | {"reason": {"ground": "night", "thought": None}}
    found = [
        Explained("one", (row,), (true,), (RecordedPrefix(prefix, 0, -1.0),), [item]),
        Explained("two", (row,), (false,), (RecordedPrefix(prefix, 0, -1.0),), [wrong]),
    ]
    rows = {each["name"]: each for each in step_rows(found, catalog, seed=0)}
    for step in ("prefix_is_of_next_topic", "covered_item_is_of_next_topic"):
        assert (rows[step]["share"], rows[step]["another"]) == (0.5, 0.5), step
    assert rows["named_topic_is_in_history"]["share"] == 0.5
    assert rows["served_item_is_below_a_prefix"]["share"] == 1
    assert rows["thought_shown_is_of_the_items_category"]["share"] == 1
    assert rows["thought_is_shown"]["share"] == rows["ground_night"]["share"] == 0.5
