"""Judges, topics and rows of `bench wishes`, small enough to count by hand."""

from bench.common.leave_one_out import Case
from bench.wishes.judges import draw_topics, judge_brand, judge_mood, judge_topic, topics_of
from bench.wishes.wish_cells import Asked, Served, describe, mean_row
from bench.wishes.wordings import MOODS, NEGATIONS, TRAINED, TUNING, UNTRAINED
from models.catalog.catalog import Catalog, build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.reasoner.think import UserHistory
from models.release.release import Release
from tests import ROOT


def small_catalog() -> Catalog:
    texts = {
        "a": ItemText("Red Nail Polish", "OPI", ("Beauty", "Makeup", "Nails", "Nail Polish")),
        "b": ItemText("Nail file by OPI", None, ("Beauty", "Tools", "Nail Tools")),
        "c": ItemText("Lavender bath", "Dove", ("Beauty", "Bath & Body", "Bath")),
    }
    sids = {item: (0, 0, at) for at, item in enumerate(texts)}
    return build_catalog(SidSpace((1, 1, 4), 2, "small"), sids, texts, {})


def test_the_judges_read_the_category_the_title_and_the_brand() -> None:
    catalog = small_catalog()
    rows = range(len(catalog))
    nails, brand = judge_topic(catalog, "Nail Polish"), judge_brand(catalog, 0)
    mood = judge_mood(catalog, MOODS["unwind"])
    assert [nails.by_category(row) for row in rows] == [True, False, False]
    assert [judge_topic(catalog, "Nails").by_title(row) for row in rows] == [True, True, False]
    assert [brand.by_category(row) for row in rows] == [True, False, False]
    assert [brand.by_title(row) for row in rows] == [False, True, False]
    assert [mood.by_category(row) for row in rows] == [False, False, True]
    assert [mood.by_title(row) for row in rows] == [False, False, True]


def test_a_row_holds_shares_and_recall_by_mode() -> None:
    catalog = small_catalog()
    asked = Asked(Case(UserHistory("u", (2,)), (2,), 1), (), judge_topic(catalog, "Nail Polish"))
    served = Served(asked, {"fused": (0, 1), "strict": (1,), "union": ()})
    row = describe("wish", [served])
    assert (row["fused"], row["strict"], row["union"]) == (0.5, 0.0, 0.0)
    assert (row["recall@10_fused"], row["recall@10_union"]) == (1.0, 0.0)
    other = {**row, "fused": 0.0}
    assert mean_row("mean", [row, other])["fused"] == 0.25


def test_topics_and_wordings_of_the_bench_are_not_those_of_the_tuning() -> None:
    catalog = Release.load(ROOT / "releases" / "beauty").catalog
    tuning, held_out = draw_topics(catalog, held_out=False), draw_topics(catalog, held_out=True)
    assert min(len(tuning), len(held_out)) >= 12
    assert not set(tuning) & set(held_out)
    assert len(set(UNTRAINED)) >= 12
    assert not set(TUNING) & {TRAINED, *UNTRAINED, *NEGATIONS}
    rows = [row for row in range(200) if held_out[0] in catalog.categories[row]]
    assert topics_of(catalog, rows, held_out[:1]) == held_out[:1] * bool(rows)
