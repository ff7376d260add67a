"""The Python functions of a first use, over the toy release."""

from pathlib import Path

import pytest

from models.errors import InvalidInput, ThinkAheadError
from models.release.release import Release
from models.release.searchers import load_finisher
from thinkahead.library import Recommender, read, train

EVENTS = "user,item,ts\nann,soap,1\nann,comb,2\nbob,soap,3\n"


@pytest.fixture(scope="module")
def recommender(release: Release) -> Recommender:
    return Recommender(release.directory)


def test_files_become_a_data_folder(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    summary = read([tmp_path / "events.csv"], tmp_path / "mine")
    assert "2 users" in summary.render()
    assert (tmp_path / "mine" / "interactions.parquet").is_file()


def test_too_few_users_are_an_exception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    with pytest.raises(ThinkAheadError, match="exit code 78"):
        train(tmp_path / "events.csv", tmp_path / "release", config="fast")
    assert "expected at least" in capsys.readouterr().err


def test_the_online_tier_answers_as_the_finish_does(recommender: Recommender) -> None:
    catalog = recommender.release.catalog
    history = list(catalog.item_ids[:4])
    found = recommender.recommend(history, n=5)
    finisher = load_finisher(recommender.release)
    state = finisher.encode(range(4))
    expected = finisher.finish(
        state, finisher.own_prefixes(state, count=100), k=5, exclude=set(range(4))
    )
    assert [each.item_id for each in found] == [catalog.item_ids[each.row] for each in expected]
    assert found[0].title == catalog.titles[expected[0].row]
    assert all(set(each.because) <= set(history) for each in found)


def test_thoughts_bound_the_list(recommender: Recommender) -> None:
    catalog = recommender.release.catalog
    history = list(catalog.item_ids[:4])
    thoughts = recommender.think(history, paths=2, width=3)
    assert thoughts.texts
    listed = recommender.recommend(history, n=5, thoughts=thoughts)
    sids = [
        tuple(catalog.sids[row][:2].tolist()) for row in catalog.rows(i.item_id for i in listed)
    ]
    assert set(sids) <= set(thoughts.prefixes)


def test_a_history_of_unknown_items_is_refused(recommender: Recommender) -> None:
    with pytest.raises(InvalidInput, match="none of 1 items"):
        recommender.recommend(["unheard-of"])
