"""C_u from the history up to the day before the target."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.common.leave_one_out import Case, cut_histories
from bench.quality.quality import main
from bench.quality.ranking.evaluation import Evaluation
from bench.quality.ranking.quality_rows import NUM_OWN
from bench.quality.thought_rows import think_day_before
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import Thoughts, ThoughtSettings
from models.catalog.dataset import load_dataset
from models.errors import InvalidSettings
from models.reasoner.think import UserHistory
from models.release.release import Release
from tests.bench.test_quality import World, places_below, toy_finisher, world, write_dataset

__all__ = ["world"]  # a fixture that the tests take as an argument


def test_the_day_before_leaves_out_the_items_of_the_targets_day() -> None:
    seen = tuple(range(60))
    case = Case(UserHistory("u", seen[-50:]), seen, 99, num_today=3)
    before = case.day_before()
    assert before.seen == seen[:57]
    assert before.history == UserHistory("u", seen[7:57])
    assert (before.target, before.is_same_day) == (99, False)
    other = Case(UserHistory("u", seen[-50:]), seen, 99)
    assert other.day_before() == other


def test_rows_of_the_day_before_take_its_prefixes_and_mask_the_whole_history(
    world: World,
) -> None:
    """The thoughts of the other run stand for those of the day before."""
    finisher = toy_finisher(world.catalog)
    evaluation = Evaluation(
        finisher, world.catalog, world.cases, world.thoughts, day_before=world.at_once
    )
    found = evaluation.rank_all(seed=0, on_progress=lambda _: None)
    before = [user.prefixes for user in world.at_once.users]
    assert found["two_tier_strict_day_before"].rank_U.tolist() == places_below(world, before)
    unions = []
    for case, own in zip(world.cases, before, strict=True):
        best = finisher.rank_prefixes(finisher.encode(case.history.rows), count=NUM_OWN)
        codes = world.catalog.trie.prefixes()[best].tolist()
        unions.append((*own, *(tuple(each) for each in codes)))
    assert found["two_tier_union_day_before"].rank_U.tolist() == places_below(world, unions)
    assert found["two_tier_strict"].rank_U.tolist() != places_below(world, before)


@pytest.fixture(scope="module")
def data(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), release.catalog)


def test_only_users_with_a_target_of_the_same_day_think_again(
    release: Release, data: Path, tmp_path: Path
) -> None:
    settings = ThoughtSettings(paths=2, width=3)
    cache = ThoughtCache.open(tmp_path, release, settings)
    cases = cut_histories(load_dataset(data), release.catalog, split="test", num_users=12)
    console = Console(quiet=True)
    thoughts = think_cases(console, cache, cases, workers=1)
    again = think_day_before(console, cache, cases, thoughts, workers=1)
    earlier = [case.day_before() for case in cases]
    alone = think_cases(console, cache, earlier, workers=1)
    assert {case.is_same_day for case in cases} == {True, False}
    for case, new, old, expected in zip(
        cases, again.users, thoughts.users, alone.users, strict=True
    ):
        assert new.user_id == case.history.user_id
        assert new.prefixes == (expected.prefixes if case.is_same_day else old.prefixes)
    assert isinstance(again, Thoughts)
    assert again.seconds > thoughts.seconds


def test_the_rows_are_added_only_when_asked_and_contradictory_options_are_refused(
    release: Release, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "table.json"
    given = ["--release", str(release.directory), "--data", str(data), "--workers", "1"]
    given += ["--paths", "1", "--width", "3", "--users", "12", "--cache", str(tmp_path)]
    assert main([*given, "--day-before", "--json", str(file)]) == 0
    table = json.loads(file.read_text())
    names = {row["name"] for row in table["rows"]}
    assert {"two_tier_strict_day_before", "two_tier_union_day_before"} <= names
    assert "two_tier_strict_day_before minus two_tier_strict" in table["meta"]["differences"]
    assert "users_without_a_day_before" in table["meta"]
    with pytest.raises(InvalidSettings, match="--no-thoughts and --day-before"):
        main([*given, "--day-before", "--no-thoughts"])
