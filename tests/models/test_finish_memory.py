"""The finish with a memory against scoring every item on its own, in every runtime."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.history_cache import HistoryCache, window_start
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts
from models.online.memory.tree_memory import NightBonus
from models.online.onnx_runtime import HistoryState
from models.online.torch_runtime import TorchRuntime
from tests.fakes.toy import toy_catalog, toy_histories, toy_recommender, toy_searcher
from tests.fakes.toy_memory import SETTINGS, bonuses, reasons, toy_counts, toy_neighbours
from tests.models.test_finish import SHAPES, brute_force, some_prefixes

RUNTIMES = ["torch-float64", "torch-float32", "onnx-float32", "native-float32"]
SHARED = ((3, 3, 3), 2)  # 27 SIDs for 120 items


def remembering(
    name: str, catalog: Catalog, directory: Path, *, prunes: bool = True, scale: float = 8.0
) -> tuple[Finisher, Neighbours]:
    neighbours = toy_neighbours(catalog)
    searcher = toy_searcher(toy_recommender(catalog, scale=scale), name, directory, prunes=prunes)
    return Finisher(searcher, catalog, neighbours), neighbours


def exact_scores(catalog: Catalog, neighbours: Neighbours, history: list[int]) -> list[float]:
    with torch.inference_mode():
        logprobs = brute_force(toy_recommender(catalog).double(), catalog, history)
    added = bonuses(neighbours, history)
    return [logprob + bonus for logprob, bonus in zip(logprobs, added, strict=True)]


def ranked(scores: Sequence[float], rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (-round(scores[row], 9), row))


def assert_room_is_empty(finisher: Finisher) -> None:
    memory = finisher._memory
    assert memory is not None
    for room in (memory.row_evidence_N, *memory.node_evidence_M):
        assert not room.any()


@pytest.mark.parametrize("prunes", [True, False])
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(("sizes", "depth"), [*SHAPES, SHARED])
def test_finish_equals_scoring_every_item(
    sizes: tuple[int, ...], depth: int, name: str, prunes: bool, tmp_path: Path
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=120)
    finisher, neighbours = remembering(name, catalog, tmp_path, prunes=prunes)
    allowed_N = np.random.default_rng(2).random(len(catalog)) < 0.7
    num_lifted = 0
    for seed, history in enumerate(toy_histories(catalog, num_users=4)):
        scores = exact_scores(catalog, neighbours, history)
        prefixes = some_prefixes(catalog, 9, seed)
        below = [
            row for row, sid in enumerate(catalog.sids.tolist()) if tuple(sid[:depth]) in prefixes
        ]
        state, tree = finisher.encode(history), finisher.candidates(prefixes)
        for mask in (None, allowed_N):
            legal = [row for row in below if row not in history and (mask is None or mask[row])]
            found = finisher.finish(state, tree, k=10, exclude=history, allowed_N=mask)
            assert [item.row for item in found] == ranked(scores, legal)[:10]
            assert [item.score for item in found] == pytest.approx(
                [scores[item.row] for item in found], abs=1e-9 if "64" in name else 1e-4
            )
            for item in found:
                assert item.because == reasons(neighbours, history, item.row)
                num_lifted += bool(item.because)
        assert_room_is_empty(finisher)
    assert num_lifted > 3, "the memory has a say"


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(("sizes", "depth"), [*SHAPES, SHARED])
def test_own_prefixes_rank_by_the_largest_bonus_below(
    sizes: tuple[int, ...], depth: int, name: str, tmp_path: Path
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=120)
    finisher, neighbours = remembering(name, catalog, tmp_path)
    history = toy_histories(catalog)[1]
    with torch.inference_mode():
        logprobs = brute_force(toy_recommender(catalog).double(), catalog, history, depth=depth)
    bounds: dict[int, float] = {}
    nodes = catalog.trie.nodes(catalog.sids[:, :depth]).tolist()
    for node, logprob, bonus in zip(nodes, logprobs, bonuses(neighbours, history), strict=True):
        bounds[node] = max(bounds.get(node, -np.inf), logprob + bonus)
    expected = sorted(bounds, key=lambda node: (-bounds[node], node))[:12]
    found = finisher.score_prefixes(finisher.encode(history), count=12)
    assert found.entry.tolist() == expected
    tolerance = 1e-9 if "64" in name else 1e-4
    assert found.score.tolist() == pytest.approx([bounds[node] for node in expected], abs=tolerance)
    assert_room_is_empty(finisher)


def some_night(catalog: Catalog, seed: int) -> NightBonus:
    rng = np.random.default_rng(seed)
    row_R = rng.permutation(len(catalog))[:15].astype(np.int64)
    return NightBonus(row_R, rng.uniform(0.1, 12.0, len(row_R)))


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(("sizes", "depth"), [*SHAPES, SHARED])
def test_a_night_adds_its_bonus_to_every_item(
    sizes: tuple[int, ...], depth: int, name: str, tmp_path: Path
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=120)
    finisher, neighbours = remembering(name, catalog, tmp_path)
    tolerance = 1e-9 if "64" in name else 1e-4
    num_lifted = 0
    for seed, history in enumerate([[], *toy_histories(catalog, num_users=4)]):
        night = some_night(catalog, seed)
        scores = np.array(exact_scores(catalog, neighbours, history))
        scores[night.row_R] += night.bonus_R
        prefixes = some_prefixes(catalog, 9, seed)
        tree, state = finisher.candidates(prefixes), finisher.encode(history)
        legal = [
            row
            for row, sid in enumerate(catalog.sids.tolist())
            if tuple(sid[:depth]) in prefixes and row not in history
        ]
        found = finisher.finish(state, tree, k=10, exclude=history, night=night)
        assert [item.row for item in found] == ranked(scores.tolist(), legal)[:10]
        assert [item.score for item in found] == pytest.approx(
            [scores[item.row] for item in found], abs=tolerance
        )
        num_lifted += len({item.row for item in found} & set(night.row_R.tolist()))
        assert_room_is_empty(finisher)
    assert num_lifted > 5, "the night has a say"


def test_a_finisher_without_a_memory_takes_no_night(tmp_path: Path) -> None:
    catalog = toy_catalog()
    plain = Finisher(toy_searcher(toy_recommender(catalog), "torch-float64", tmp_path), catalog)
    assert not plain.takes_nights
    with pytest.raises(ValueError, match="expected a memory"):
        plain.finish(plain.encode([1]), plain.whole, k=3, night=some_night(catalog, 0))


@pytest.mark.parametrize("name", ["onnx-float32", "native-float32"])
def test_pruning_opens_fewer_nodes_with_a_memory_too(name: str, tmp_path: Path) -> None:
    catalog = toy_catalog(num_items=2000)
    pruned, _ = remembering(name, catalog, tmp_path, scale=12.0)
    full, _ = remembering(name, catalog, tmp_path, scale=12.0, prunes=False)
    prefixes = pruned.candidates(some_prefixes(catalog, 50, seed=1))
    for history in toy_histories(catalog):
        state = pruned.encode(history)
        found, expected = (
            [item.row for item in finisher.finish(state, prefixes, k=10)]
            for finisher in (pruned, full)
        )
        assert found == expected
    assert pruned.num_opened < 0.6 * full.num_opened


@pytest.mark.parametrize("name", ["torch-float64", "native-float32"])
def test_an_empty_history_has_no_evidence(name: str, tmp_path: Path) -> None:
    catalog = toy_catalog()
    finisher, _ = remembering(name, catalog, tmp_path)
    plain = Finisher(toy_searcher(toy_recommender(catalog), name, tmp_path), catalog)
    found, expected = (
        each.finish(each.encode([]), each.candidates(some_prefixes(catalog, 9, 0)), k=10)
        for each in (finisher, plain)
    )
    assert found == expected
    assert {item.because for item in found} == {()}
    assert [item.score for item in found] == [item.logprob for item in found]


@pytest.mark.parametrize("name", RUNTIMES)
def test_an_item_that_comes_twice_counts_once_as_a_reason(name: str, tmp_path: Path) -> None:
    catalog = toy_catalog(num_items=60)
    finisher, neighbours = remembering(name, catalog, tmp_path)
    history = [3, 9, 3, 9]
    state = finisher.encode(history)
    tree = finisher.candidates([tuple(codes) for codes in catalog.trie.prefixes().tolist()])
    found = finisher.finish(state, tree, k=60)
    assert [item.because for item in found] == [
        reasons(neighbours, history, item.row) for item in found
    ]
    assert {(3, 9), (9, 3)} & {item.because for item in found}


@pytest.mark.parametrize("name", ["onnx-float32", "native-float32"])
def test_a_grown_history_gives_the_evidence_of_one_encoded_afresh(
    name: str, tmp_path: Path
) -> None:
    catalog = toy_catalog()
    finisher, _ = remembering(name, catalog, tmp_path)
    cache = HistoryCache(max_bytes=10_000_000)
    rows = [(7 * at) % len(catalog) for at in range(110)]
    own = finisher.candidates(some_prefixes(catalog, 20, seed=0))
    for num in range(len(rows) + 1):
        kept = cache.state(finisher, rows[:num])
        fresh = finisher.encode(rows[window_start(num, finisher.window) : num])
        assert kept.recent.tolist() == fresh.recent.tolist()
        assert kept.num_bytes == fresh.num_bytes > kept.encoded.num_bytes or num == 0
        found, expected = finisher.finish(kept, own, k=5), finisher.finish(fresh, own, k=5)
        assert [item[0] for item in found] == [item[0] for item in expected]
        assert [item.because for item in found] == [item.because for item in expected]


class FailingRuntime(TorchRuntime):
    """Returns states whose first softmax fails inside the search."""

    def extend(self, past: HistoryState | None, sids_ML: NDArray[np.integer]) -> HistoryState:
        state = super().extend(past, sids_ML)
        return HistoryState(state.keys, state.values, state.queries_LW[:1], state.logits)


def test_a_search_that_fails_leaves_the_room_empty() -> None:
    catalog = toy_catalog()
    failing = FailingRuntime(toy_recommender(catalog))
    finisher = Finisher(NumpySearch(failing), catalog, toy_neighbours(catalog))
    state, tree = finisher.encode([1, 2]), finisher.candidates(some_prefixes(catalog, 9, 0))
    with pytest.raises(IndexError):
        finisher.finish(state, tree, k=5)
    assert_room_is_empty(finisher)


def test_neighbours_of_another_catalog_are_refused() -> None:
    catalog = toy_catalog(num_items=30)
    runtime = TorchRuntime(toy_recommender(catalog))
    with pytest.raises(ValueError, match="neighbours of 40 items, expected 30"):
        Finisher(NumpySearch(runtime), catalog, toy_neighbours(toy_catalog(num_items=40)))


@pytest.mark.parametrize("name", ["torch-float64", "native-float32"])
def test_finishers_that_share_a_model_take_turns_with_their_own_neighbours(
    name: str, tmp_path: Path
) -> None:
    """States and trees of one fit the other, and each ranks as a finisher of its own."""
    catalog = toy_catalog()
    searcher = toy_searcher(toy_recommender(catalog), name, tmp_path)
    counts = toy_counts(catalog)
    other_counts = PairCounts.of_histories(
        toy_histories(catalog, num_users=50, seed=9), len(catalog), SETTINGS
    )
    old = Finisher(searcher, catalog, Neighbours.of(counts, SETTINGS))
    new = old.remembering(Neighbours.of(other_counts, SETTINGS))
    history = toy_histories(catalog)[3]
    state, tree = old.encode(history), old.candidates(some_prefixes(catalog, 9, 0))
    afresh = [
        Finisher(searcher, catalog, finisher._memory.neighbours).finish(state, tree, k=20)
        for finisher in (old, new)
        if finisher._memory is not None
    ]
    found = [finisher.finish(state, tree, k=20) for finisher in (old, new, old)]
    for each, expected in zip(found, (afresh[0], afresh[1], afresh[0]), strict=True):
        assert [item.row for item in each] == [item.row for item in expected]
        assert [item.because for item in each] == [item.because for item in expected]
        # Nodes that are scored in another batch may differ in the last bit.
        scores = pytest.approx([item.score for item in expected], abs=1e-12)
        assert [item.score for item in each] == scores
    assert [item.row for item in afresh[0]] != [item.row for item in afresh[1]]
    assert_room_is_empty(new)


def test_neighbours_that_do_not_fit_never_take_over() -> None:
    catalog = toy_catalog(num_items=30)
    searcher = NumpySearch(TorchRuntime(toy_recommender(catalog)))
    finisher = Finisher(searcher, catalog, toy_neighbours(catalog))
    with pytest.raises(ValueError, match="neighbours of 40 items, expected 30"):
        finisher.remembering(toy_neighbours(toy_catalog(num_items=40)))
    with pytest.raises(ValueError, match="other settings"):
        finisher.remembering(toy_neighbours(catalog, replace(SETTINGS, recent=2)))
    with pytest.raises(ValueError, match="without a memory"):
        Finisher(searcher, catalog).remembering(toy_neighbours(catalog))
