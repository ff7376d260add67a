"""The quality table against rankings made one user and one item at a time."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.common.leave_one_out import Case, cut_histories
from bench.finish.one_pass import CatalogScorer
from bench.quality.quality import main
from bench.quality.ranking.evaluation import Evaluation
from bench.quality.ranking.plain_rows import OnlineRow, PopularityRow, Ranker, SasRecRow, rank_plain
from bench.quality.ranking.prefix_map import PrefixMap, another_user, equally_many_popular, shuffled
from bench.quality.ranking.quality_rows import (
    AT_ONCE,
    OWN,
    POPULAR,
    SHUFFLED,
    STRICT,
    TIERS_AT_ONCE,
    UNION,
    Outcome,
    Table,
    summarise,
)
from bench.quality.thought_rows import describe_grounding
from bench.quality.thoughts.think_cases import CHUNK_USERS, collect_thoughts, plan_chunks
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts, ThoughtSettings
from models.baselines.sasrec import SasRec, SasRecConfig
from models.catalog.catalog import Catalog
from models.catalog.dataset import load_dataset
from models.catalog.sid import Prefix
from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.torch_runtime import TorchRuntime
from models.reasoner import prompts, rationales
from models.reasoner.think import PathPrefix, UserHistory
from models.release.release import Release
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog, toy_recommender

NUM_USERS = 40


def write_dataset(folder: Path, catalog: Catalog, *, num_users: int = NUM_USERS) -> Path:
    """Random histories of 3 to 12 toy items, and one of 2 that no split may use.

    Three events in turn of a user share a day.
    """
    rng = np.random.default_rng(1)
    rows = []
    for user in range(num_users):
        length = 2 if user == 0 else int(rng.integers(3, 13))
        items = rng.choice(len(catalog), size=length, replace=False)
        rows += [(f"user-{user}", catalog.item_ids[at], pos) for pos, at in enumerate(items)]
    users, item_ids, positions = zip(*rows, strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    times = [86_400 * (pos // 3) for pos in positions]
    interactions = {"user_id": users, "item_id": item_ids, "pos": positions, "timestamp": times}
    pq.write_table(pa.table({k: list(v) for k, v in interactions.items()}), _file(folder))
    pq.write_table(pa.table({"item_id": list(catalog.item_ids)}), folder / "items.parquet")
    return folder


def _file(folder: Path) -> Path:
    return folder / "interactions.parquet"


@dataclass(frozen=True)
class World:
    catalog: Catalog
    cases: list[Case]
    thoughts: Thoughts
    at_once: Thoughts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    catalog = toy_catalog()
    folder = write_dataset(tmp_path_factory.mktemp("data"), catalog)
    cases = cut_histories(load_dataset(folder), catalog, split="test")
    rng = np.random.default_rng(3)
    thoughts, at_once = (
        Thoughts([random_thoughts(catalog, case.history.user_id, rng) for case in cases], 1.5)
        for _ in range(2)
    )
    return World(catalog, cases, thoughts, at_once)


def random_thoughts(catalog: Catalog, user_id: str, rng: np.random.Generator) -> CaseThoughts:
    """Legal prefixes and SIDs drawn at random, from none to twenty of each."""
    legal = catalog.trie.prefixes()
    num = int(rng.integers(0, 21))
    prefixes = legal[rng.choice(len(legal), size=num, replace=False)].tolist()
    sids = np.unique(catalog.sids[rng.choice(len(catalog), size=num)], axis=0)
    found = tuple(PathPrefix(tuple(codes), 0, -float(at), 1) for at, codes in enumerate(prefixes))
    in_order = tuple(tuple(codes) for codes in rng.permutation(sids).tolist())
    return CaseThoughts(user_id, (), found, in_order, 0, 0)


def place(ranked_rows: list[int], target: int | None) -> float:
    return ranked_rows.index(target) + 1 if target in ranked_rows else math.inf


def toy_finisher(catalog: Catalog) -> Finisher:
    return Finisher(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog)


def places_below(world: World, prefixes: list[tuple[Prefix, ...]]) -> list[float]:
    """Score every item of the catalog for each user, and sort the items below the prefixes."""
    places, scorer = [], CatalogScorer(toy_recommender(world.catalog), world.catalog)
    for case, own in zip(world.cases, prefixes, strict=True):
        scores = scorer.score([case.history.rows])[0].tolist()
        legal = [
            row
            for row, sid in enumerate(world.catalog.sids.tolist())
            if tuple(sid[:2]) in own and row not in case.seen
        ]
        best = sorted(legal, key=lambda row: (-scores[row], row))[:10]
        places.append(place(best, case.target))
    return places


Ranks = dict[str, list[float]]


@pytest.fixture(scope="module")
def ranks(world: World) -> Ranks:
    return rank_all(world)


def toy_sasrec(catalog: Catalog) -> SasRec:
    torch.manual_seed(0)
    return SasRec(SasRecConfig(len(catalog), width=16)).eval()


def plain_outcomes(world: World) -> dict[str, Outcome]:
    catalog = world.catalog
    rankers: dict[str, Ranker] = {
        "popularity": PopularityRow(catalog.popularity),
        "sasrec": SasRecRow(toy_sasrec(catalog)),
        "online": OnlineRow(toy_finisher(catalog), catalog),
    }
    return rank_plain(rankers, catalog, world.cases, on_progress=lambda _: None)


def rank_all(world: World) -> Ranks:
    evaluation = evaluate(world)
    outcomes = plain_outcomes(world) | evaluation.rank_all(seed=3, on_progress=lambda _: None)
    return {name: outcome.rank_U.tolist() for name, outcome in outcomes.items()}


def evaluate(world: World) -> Evaluation:
    finisher = toy_finisher(world.catalog)
    return Evaluation(finisher, world.catalog, world.cases, world.thoughts, world.at_once)


def summarise_all(world: World) -> Table:
    evaluation = evaluate(world)
    outcomes = plain_outcomes(world) | evaluation.rank_all(seed=0, on_progress=lambda _: None)
    return summarise(outcomes, {}, has_own_prefix_U=evaluation.has_own_prefix_U, seed=0)


def test_two_tier_ranks_equal_scoring_every_item_below_each_users_prefixes(
    world: World, ranks: Ranks
) -> None:
    own = [user.prefixes for user in world.thoughts.users]
    assert ranks[STRICT] == places_below(world, own)
    other = another_user(len(own), seed=3)
    assert ranks[SHUFFLED] == places_below(world, [own[at] for at in other])
    assert any(rank < math.inf for rank in ranks[STRICT])


def test_online_ranks_equal_the_finish_below_all_prefixes(world: World, ranks: Ranks) -> None:
    every = tuple(tuple(codes) for codes in world.catalog.trie.prefixes().tolist())
    assert ranks["online"] == places_below(world, [every] * len(world.cases))


def test_reasoner_ranks_equal_its_sids_expanded_in_serving_order(
    world: World, ranks: Ranks
) -> None:
    expected = []
    for case, user in zip(world.cases, world.thoughts.users, strict=True):
        rows = [
            row
            for sid in user.sids
            for row in range(len(world.catalog))
            if tuple(world.catalog.sids[row].tolist()) == sid and row not in case.seen
        ]
        expected.append(place(rows, case.target))
    assert ranks["reasoner"] == expected


def test_without_a_thought_everybody_has_the_budget_that_thinking_used(
    world: World, ranks: Ranks
) -> None:
    pairs = list(zip(world.thoughts.users, world.at_once.users, strict=True))
    cut = [silent.prefixes[: len(thought.prefixes)] for thought, silent in pairs]
    assert any(
        len(kept) < len(silent.prefixes) for kept, (_, silent) in zip(cut, pairs, strict=True)
    )
    assert ranks[TIERS_AT_ONCE] == places_below(world, cut)
    num_ranked = [
        sum(tuple(sid) in silent.sids[: len(thought.sids)] for sid in world.catalog.sids.tolist())
        for thought, silent in pairs
    ]
    for rank, num in zip(ranks[AT_ONCE], num_ranked, strict=True):
        assert rank == math.inf or rank <= num
    assert any(rank < math.inf for rank in ranks[AT_ONCE])


def test_differences_are_those_of_the_rows(world: World) -> None:
    table = summarise_all(world)
    rows = {row["name"]: row for row in table.rows}
    assert table.own_prefix_recall is not None
    rows[OWN] = {"prefix_recall": table.own_prefix_recall.mean}
    assert set(table.differences) == {
        f"reasoner minus {AT_ONCE}",
        f"{STRICT} minus {TIERS_AT_ONCE}",
        f"{STRICT} minus online",
        f"{UNION} minus online",
        "online minus sasrec",
        f"{STRICT} minus {SHUFFLED}",
        f"{STRICT} minus {POPULAR}",
        f"{STRICT} minus {OWN}",
        f"{TIERS_AT_ONCE} minus {OWN}",
    }
    for name, metrics in table.differences.items():
        one, _, other = name.partition(" minus ")
        for metric, interval in metrics.items():
            expected = float(rows[one][metric]) - float(rows[other][metric])
            assert interval.mean == pytest.approx(expected)
            assert interval.low <= interval.mean <= interval.high


def test_sasrec_ranks_what_is_unseen_by_its_scores(world: World, ranks: Ranks) -> None:
    model, expected = toy_sasrec(world.catalog), []
    for case in world.cases:
        scores = model.score([case.history.rows])[0].tolist()
        unseen = [row for row in range(len(scores)) if row not in case.seen]
        expected.append(place(sorted(unseen, key=lambda row: -scores[row]), case.target))
    assert ranks["sasrec"] == expected


def test_popularity_ranks_what_is_unseen_by_training_interactions(
    world: World, ranks: Ranks
) -> None:
    popularity = world.catalog.popularity.tolist()
    expected = []
    for case in world.cases:
        rows = [row for row in range(len(world.catalog)) if row not in case.seen]
        expected.append(place(sorted(rows, key=lambda row: -popularity[row]), case.target))
    assert ranks["popularity"] == expected


def test_own_prefixes_are_the_online_models_best_as_many_as_each_user_has(world: World) -> None:
    found, finisher = [], toy_finisher(world.catalog)
    for case, user in zip(world.cases, world.thoughts.users, strict=True):
        assert case.target is not None
        state = finisher.encode(case.history.rows)
        best = finisher.rank_prefixes(state, count=len(user.prefixes))
        found.append(world.catalog.trie.nodes(world.catalog.sids[[case.target], :2])[0] in best)
    table = summarise_all(world)
    assert table.own_prefix_recall is not None
    assert table.own_prefix_recall.mean == pytest.approx(np.mean(found))


def test_coverage_counts_prefixes_items_below_them_and_targets_under_them(world: World) -> None:
    prefix_map = PrefixMap(world.catalog)
    nodes = [prefix_map.nodes(user.prefixes) for user in world.thoughts.users]
    targets = np.array([-1 if case.target is None else case.target for case in world.cases])
    coverage = prefix_map.cover(nodes, targets)
    for at, user in enumerate(world.thoughts.users):
        below = [tuple(sid[:2]) for sid in world.catalog.sids.tolist()]
        assert coverage.prefixes_U[at] == len(user.prefixes)
        assert coverage.items_U[at] == sum(prefix in user.prefixes for prefix in below)
        assert coverage.has_target_U[at] == (below[targets[at]] in user.prefixes)


def test_a_target_that_the_catalog_lacks_is_missed_by_every_row(world: World) -> None:
    lost = [Case(case.history, case.seen, None) for case in world.cases]
    found = rank_all(World(world.catalog, lost, world.thoughts, world.at_once))
    assert {rank for row in found.values() for rank in row} == {math.inf}


def test_shuffling_gives_everybody_the_prefixes_of_somebody_else() -> None:
    other = another_user(50, seed=0)
    assert sorted(other) == list(range(50))
    assert not (other == np.arange(50)).any()
    nodes = [np.array([user]) for user in range(50)]
    assert [int(own[0]) for own in shuffled(nodes, seed=0)] == other.tolist()


def test_popular_prefixes_are_as_many_as_the_users_own(world: World) -> None:
    prefix_map = PrefixMap(world.catalog)
    own = [prefix_map.nodes(user.prefixes) for user in world.thoughts.users]
    popular = equally_many_popular(prefix_map, own)
    assert [len(nodes) for nodes in popular] == [len(nodes) for nodes in own]


@pytest.mark.parametrize(("split", "back"), [("test", 1), ("valid", 2)])
def test_the_cut_is_before_the_target_and_nothing_later_is_seen(
    tmp_path: Path, split: str, back: int
) -> None:
    catalog = toy_catalog()
    dataset = load_dataset(write_dataset(tmp_path, catalog))
    cases = cut_histories(dataset, catalog, split="test" if split == "test" else "valid")
    assert len(cases) == NUM_USERS - 1  # the user of two items has no targets
    for case in cases:
        items = [event.item_id for event in dataset.histories[case.history.user_id]]
        assert [catalog.item_ids[row] for row in case.seen] == items[:-back]
        assert case.history.rows == case.seen[-50:]
        assert case.target == catalog.row(items[-back])


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    catalog = toy_catalog()
    dataset = load_dataset(write_dataset(tmp_path, catalog))
    few = cut_histories(dataset, catalog, split="test", num_users=10, seed=5)
    many = cut_histories(dataset, catalog, split="test", num_users=20, seed=5)
    assert many[:10] == few


def test_chunks_hold_every_user_once_with_histories_of_like_length() -> None:
    users = [UserHistory(f"u{at}", tuple(range(1 + at % 7))) for at in range(1500)]
    chunks = plan_chunks(users)
    assert sorted(user.user_id for chunk in chunks for user in chunk) == sorted(
        user.user_id for user in users
    )
    assert len(chunks[0][0].rows) == len(chunks[0][-1].rows) == 1
    assert plan_chunks(users[:1024]) == chunks[: 1024 // CHUNK_USERS]


def test_grounding_counts_thoughts_and_topics_against_the_own_history() -> None:
    catalog = toy_catalog()
    topics = [prompts.topic(catalog, row) for row in range(len(catalog))]
    other = next(row for row in range(len(catalog)) if topics[row] != topics[0])
    about = rationales.rationale_text(rationales.Rationale((topics[0], topics[other]), topics[0]))
    elsewhere = rationales.rationale_text(rationales.Rationale((topics[other],), topics[0]))
    case = Case(UserHistory("user", (0,)), (0,), None)
    user = CaseThoughts("user", (about, elsewhere, "no form"), (), (), 0, 0)
    assert describe_grounding(catalog, [case], Thoughts([user], 0.0)) == {
        "thoughts_naming_the_history": pytest.approx(1 / 3),
        "named_topics_in_the_history": pytest.approx(1 / 3),
    }


def test_quality_writes_every_row_and_thinks_only_once(
    release: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading the thoughts of the first run needs no workers, and none are allowed."""
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--workers", "2"]
    arguments += ["--paths", "2", "--width", "3", "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--json", str(tmp_path / "first.json")]) == 0
    assert "two_tier_strict" in capsys.readouterr().out
    cache = ThoughtCache.open(tmp_path / "cache", release, ThoughtSettings(paths=2, width=3))
    cases = cut_histories(load_dataset(data), release.catalog, split="test")
    users = [case.history for case in cases]
    kept = collect_thoughts(cache, users, workers=0, on_progress=lambda _: None)
    assert [user.user_id for user in kept.users] == [user.user_id for user in users]

    assert main([*arguments, "--json", str(tmp_path / "second.json")]) == 0
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in NAMES)
    assert [row["name"] for row in first["rows"]] == ROWS
    assert_simple_rows("quality", first["rows"])
    for row, again in zip(first["rows"], second["rows"], strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {
            k: v for k, v in again.items() if k != "seconds"
        }
        assert set(row) == COLUMNS
        assert row["recall@10_low"] <= row["recall@10"] <= row["recall@10_high"]
    assert first["meta"]["users"] == NUM_USERS - 1
    assert first["meta"]["grounding"] == second["meta"]["grounding"]
    assert set(first["meta"]["differences"][f"{STRICT} minus {OWN}"]) == {"prefix_recall"}


NAMES = ("first", "second")
PLAIN_ROWS = ["popularity", "counts", "memory", "online_no_memory", "online"]
NIGHT_ROWS = ["night_items", "two_tier_fused_no_thought", "two_tier_fused_day_before"]
ROWS = [*PLAIN_ROWS, *NIGHT_ROWS, "popularity_refit", "counts_refit", "two_tier_fused"]
ROWS += ["reasoner", AT_ONCE, STRICT, UNION, SHUFFLED, POPULAR, TIERS_AT_ONCE]
ROWS += ["two_tier_thoughts", "two_tier_strict_no_thought"]
MEASURED = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "prefix_recall")
COLUMNS = {"name", "prefixes", "fan_out", "seconds"} | {
    f"{column}{end}"
    for column in (
        *MEASURED,
        *(
            f"{metric}_{group}"
            for metric in ("recall@10", "ndcg@10")
            for group in (
                "same_day",
                "other_day",
                "trained_never",
                "trained_1_to_3",
                "trained_more",
            )
        ),
    )
    for end in ("", "_low", "_high")
}
