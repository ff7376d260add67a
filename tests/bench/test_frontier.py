"""The grid of T and m, and the age of C_u, against nights and rankings made one by one."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.common.leave_one_out import Case, cut_histories
from bench.finish.one_pass import CatalogScorer
from bench.quality.frontier import Cell, sample_chunks, try_cells
from bench.quality.frontier import main as frontier
from bench.quality.ranking.quality_rows import ONLINE
from bench.quality.ranking.two_tiers import SILENT, Tried, TwoTiers, compare
from bench.quality.staleness import age_case
from bench.quality.staleness import main as staleness
from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.path_beams import PathBeams, is_head_of_wider, prefixes_of, search_paths
from bench.quality.thoughts.think_cases import collect_thoughts
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import Thoughts, ThoughtSettings, without_thought
from models.catalog.dataset import load_dataset
from models.errors import InvalidDataset, InvalidSettings
from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.torch_runtime import TorchRuntime
from models.reasoner.beam import Beam
from models.reasoner.think import UserHistory, think_users, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from tests.bench.test_quality import write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_histories, toy_recommender

SETTINGS = ThoughtSettings(paths=3, width=4, widths=(2, 4))
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), release.catalog)


@pytest.fixture(scope="module")
def cases(release: Release, data: Path) -> list[Case]:
    return cut_histories(load_dataset(data), release.catalog, split="test")


@pytest.fixture(scope="module")
def reasoner(release: Release) -> TransformersReasoner:
    return TransformersReasoner.load(release.reasoner_dir, release.space)


@pytest.mark.parametrize("paths", [1, 2, 3])
@pytest.mark.parametrize("width", [2, 4])
def test_every_cell_of_the_grid_is_a_night_of_its_own(
    release: Release, reasoner: TransformersReasoner, paths: int, width: int
) -> None:
    """Thought with T paths and m beams, and cut out of a larger night, C_u is the same."""
    rows = toy_histories(release.catalog, num_users=12)
    users = [UserHistory(f"user-{at}", tuple(history)) for at, history in enumerate(rows)]
    seeds = [user_seed(0, user.user_id) for user in users]
    found = search_paths(reasoner, release.catalog, users, paths=3, widths=(2, 4), seeds=seeds)
    night = think_users(reasoner, release.catalog, users, paths=paths, width=width, seeds=seeds)
    for of_user, alone in zip(found, night, strict=True):
        cut = prefixes_of(of_user, paths=paths, width=width, max_prefixes=100)
        assert set(cut) == {prefix.codes for prefix in alone.prefixes}
        closed = [path for path in of_user[:paths] if path.text is not None]
        assert tuple(path.text for path in closed) == alone.texts
        assert sum(path.tokens for path in of_user[:paths]) == alone.tokens
        assert alone.dropped_paths == paths - len(closed)


def test_a_narrow_beam_is_told_from_the_head_of_a_wider_one() -> None:
    wide = (Beam((1, 1), -1.0), Beam((2, 1), -2.0))
    same = PathBeams(3, "text", {1: (Beam((1, 1), -1.1),), 2: wide})
    other = PathBeams(3, "text", {1: (Beam((2, 1), -2.0),), 2: wide})
    assert is_head_of_wider(same, width=1, wider=2)
    assert not is_head_of_wider(other, width=1, wider=2)


def test_c_u_is_capped_after_its_paths_were_united() -> None:
    first = PathBeams(3, "a", {2: (Beam((1, 1), -1.0), Beam((2, 1), -3.0))})
    open_ended = PathBeams(9, None, {})
    last = PathBeams(3, "b", {2: (Beam((3, 1), -2.0), Beam((1, 1), -4.0))})
    found = (first, open_ended, last)
    assert prefixes_of(found, paths=3, width=2, max_prefixes=2) == ((1, 1), (3, 1))
    assert prefixes_of(found, paths=2, width=2, max_prefixes=9) == ((1, 1), (2, 1))


def test_paths_come_back_from_the_disk_as_they_went(
    tmp_path: Path, release: Release, cases: list[Case]
) -> None:
    users = [case.history for case in cases[:20]]
    cache = ThoughtCache.open(tmp_path, release, SETTINGS)
    made = collect_thoughts(cache, users, workers=1, on_progress=lambda _: None)
    kept = collect_thoughts(cache, users, workers=0, on_progress=lambda _: None)
    assert kept == made
    assert any(len(user.paths[0].beams) == 2 for user in kept.users)
    assert all(len(user.paths) == 3 and not user.sids for user in kept.users)


def test_settings_without_widths_name_the_cache_that_they_always_did() -> None:
    """A whole split is twenty minutes of thinking, which nobody wants to do twice."""
    assert ThoughtSettings().to_json() == {
        "paths": 5,
        "width": 10,
        "max_prefixes": 100,
        "seed": 0,
    }


@pytest.fixture(scope="module")
def thoughts(
    tmp_path_factory: pytest.TempPathFactory, release: Release, cases: list[Case]
) -> Thoughts:
    cache = ThoughtCache.open(tmp_path_factory.mktemp("cache"), release, SETTINGS)
    users = [case.history for case in cases]
    return collect_thoughts(cache, users, workers=1, on_progress=lambda _: None)


@pytest.fixture(scope="module")
def at_once(
    tmp_path_factory: pytest.TempPathFactory, release: Release, cases: list[Case]
) -> Thoughts:
    settings = without_thought(replace(SETTINGS, widths=()), Manner.SILENT)
    cache = ThoughtCache.open(tmp_path_factory.mktemp("silent"), release, settings)
    users = [case.history for case in cases]
    return collect_thoughts(cache, users, workers=1, on_progress=lambda _: None)


def toy_tiers(release: Release) -> TwoTiers:
    runtime = TorchRuntime(toy_recommender(release.catalog))
    return TwoTiers(Finisher(NumpySearch(runtime), release.catalog), release.catalog)


def test_a_cell_ranks_as_scoring_every_item_below_its_prefixes_does(
    release: Release, cases: list[Case], thoughts: Thoughts, at_once: Thoughts
) -> None:
    cell = Cell(paths=2, width=4)
    tried, online_U = try_cells(
        toy_tiers(release), cases, thoughts, at_once, [cell], SETTINGS, lambda _: None
    )
    scorer = CatalogScorer(toy_recommender(release.catalog), release.catalog)
    for at, (case, user) in enumerate(zip(cases, thoughts.users, strict=True)):
        own = prefixes_of(user.paths, paths=2, width=4, max_prefixes=100)
        scores = scorer.score([case.history.rows])[0].tolist()
        unseen = [row for row in range(len(scores)) if row not in case.seen]
        ranked = sorted(unseen, key=lambda row: (-scores[row], row))
        below = [row for row in ranked if tuple(release.catalog.sids[row, :2].tolist()) in own]
        found, silent = tried[cell.name][at], tried[cell.name + SILENT][at]
        assert silent.num_prefixes <= found.num_prefixes
        assert online_U[at] == place(ranked, case.target)
        assert found.strict_rank == place(below, case.target)
        assert found.num_prefixes == len(own)
        assert found.has_target == (case.target in below)


def place(ranked: list[int], target: int | None) -> float:
    return ranked.index(target) + 1 if target in ranked[:10] else math.inf


def test_own_prefixes_are_as_many_and_made_from_the_same_history(
    release: Release, cases: list[Case]
) -> None:
    tiers = toy_tiers(release)
    case = max(cases, key=lambda case: len(case.seen))
    target = release.catalog.sids[case.target, :2].tolist()
    wanted = release.catalog.trie.nodes(np.array([target]))[0]
    prefixes = [tuple(codes) for codes in release.catalog.trie.prefixes()[:7].tolist()]
    for age in (0, 2):
        thought_of = age_case(case, age).history.rows
        own = tiers.own_prefixes(tiers.encode(thought_of), 7)
        found = tiers.open(case).attempt(prefixes, thought_of=thought_of)
        assert found.own_has_target == (wanted in own)


def test_an_aged_case_has_lost_its_last_items_and_keeps_its_target() -> None:
    seen = tuple(range(60))
    case = Case(UserHistory("user", seen[-50:]), seen, 99)
    assert age_case(case, 0) == case
    aged = age_case(case, 4)
    assert aged.history.rows == seen[6:56]
    assert (aged.seen, aged.target) == (seen[:56], 99)


def test_gains_and_changes_are_differences_user_by_user() -> None:
    young = [Tried(1, 1, True, False, 5), Tried(20, 2, True, True, 5)]
    old = [Tried(math.inf, 1, False, False, 5), Tried(20, 2, True, True, 5)]
    rows = compare(
        {"young": young, "old": old}, {ONLINE: np.array([1.0, 3.0])}, seed=0, base="young"
    )
    assert rows[ONLINE]["recall@10"] == 1.0
    assert rows["young"]["strict_gain@10"] == -0.5
    assert rows["young"]["prefix_recall_gain"] == 0.5
    assert rows["old"]["prefix_recall_change"] == rows["old"]["strict@10_change"] == -0.5
    assert rows["old"]["union@10_change"] == rows["young"]["strict@10_change"] == 0.0


def test_the_sample_that_is_timed_reaches_from_short_histories_to_long_ones(
    cases: list[Case],
) -> None:
    chunks = sample_chunks(cases, num_chunks=2)
    lengths = [[len(user.rows) for user in chunk] for chunk in chunks]
    every = [len(case.history.rows) for case in cases]
    assert (min(lengths[0]), max(lengths[-1])) == (min(every), max(every))


def options(release: Release, data: Path, tmp_path: Path) -> list[str]:
    cache = str(tmp_path / "cache")
    common = ["--release", str(release.directory), "--data", str(data), "--cache", cache]
    return [*common, "--workers", "1", "--users", "0", "--json", str(tmp_path / "out.json")]


def test_frontier_writes_a_row_a_cell_and_a_small_figure(
    tmp_path: Path, release: Release, data: Path
) -> None:
    arguments = [*options(release, data, tmp_path), "--cost-chunks", "1"]
    assert frontier([*arguments, "--paths", "2", "1", "--widths", "3"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    cells = [name + end for name in ("T=1 m=3", "T=2 m=3") for end in ("", SILENT)]
    assert list(rows) == ["popularity", "counts", ONLINE, *cells]
    assert_simple_rows("frontier", report["rows"])
    one, two = rows["T=1 m=3"], rows["T=2 m=3"]
    assert rows["T=2 m=3" + SILENT]["prefixes"] == two["prefixes"]
    assert one["prefix_recall"] <= two["prefix_recall"]  # C_u of one path is within that of two
    assert one["prefixes"] < two["prefixes"]
    assert 0 < one["tokens"] < two["tokens"]
    assert two["cpu_ms"] > 0
    assert two["head_of_widest"] == 1.0
    assert "prefix_recall_gain" in (tmp_path / "out.md").read_text()
    figure = (tmp_path / "out.png").read_bytes()
    assert figure.startswith(PNG)
    assert len(figure) < 100_000


def test_staleness_judges_the_same_users_at_every_age(
    tmp_path: Path, release: Release, data: Path, cases: list[Case]
) -> None:
    arguments = [*options(release, data, tmp_path), "--paths", "2", "--width", "3"]
    assert staleness([*arguments, "--ages", "4", "0"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    names = [row["name"] for row in report["rows"]]
    ages = [name + end for name in ("0 ago", "4 ago") for end in ("", SILENT)]
    assert names == ["popularity", "counts", ONLINE, *ages]
    assert report["meta"]["users"] == sum(len(case.seen) > 4 for case in cases)
    assert_simple_rows("staleness", report["rows"])
    assert report["rows"][3]["union@10_change"] == 0.0
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


def test_what_cannot_be_asked_is_an_error_of_one_line(
    tmp_path: Path, release: Release, data: Path
) -> None:
    arguments = options(release, data, tmp_path)
    with pytest.raises(InvalidSettings, match="--paths"):
        frontier([*arguments, "--paths", "0"])
    with pytest.raises(InvalidSettings, match="--ages"):
        staleness([*arguments, "--ages", "-1"])
    with pytest.raises(InvalidDataset, match="outlasts 40"):
        staleness([*arguments, "--ages", "40"])
    with pytest.raises(InvalidDataset, match="outlasts 50"):
        staleness([*arguments, "--ages", "0", "--outlast", "50"])
