"""The best-first finish against scoring every item on its own, in every runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.online.best_first import NumpySearch, Opened, Softmaxes
from models.online.finish import Finisher, Scored
from models.online.found import Ints
from models.online.recommender import OnlineRecommender, pack_sids
from models.online.torch_runtime import TorchRuntime
from tests.fakes.toy import toy_catalog, toy_histories, toy_recommender, toy_searcher

SHAPES = [((8, 8, 16), 2), ((6, 5, 4, 7), 2), ((6, 5, 4, 7), 3), ((9, 30), 1), ((4, 3, 3, 3, 4), 1)]
PEAKED, FLAT = 8.0, 1.0


def brute_force(
    recommender: OnlineRecommender,
    catalog: Catalog,
    history: list[int],
    *,
    depth: int | None = None,
) -> list[float]:
    """log P(SID | history) of every row, or of its first `depth` codes, one SID at a time, its
    siblings found by comparing codes."""
    sids = torch.from_numpy(catalog.sids.astype(np.int64))
    state = recommender.encode(recommender.embed_items(sids[history].unsqueeze(0)))[0, -1]
    queries = [query(state) for query in recommender.queries]
    return [
        sum(step_logprob(recommender, sids, sid[: at + 1], queries[at]) for at in range(last))
        for sid in sids
        for last in [depth or len(sid)]
    ]


def step_logprob(
    recommender: OnlineRecommender, sids: torch.Tensor, prefix: torch.Tensor, query: torch.Tensor
) -> float:
    """log P(prefix | the prefix but for its last code)."""
    depth = len(prefix)
    siblings = sids[(sids[:, : depth - 1] == prefix[:-1]).all(dim=1)][:, :depth].unique(dim=0)
    packed = pack_sids(siblings, recommender.config.sizes[:depth])
    logits = recommender.embed_nodes(packed, depth) @ query
    at = int((siblings == prefix).all(dim=1).nonzero())
    return float(logits.log_softmax(dim=0)[at])


def some_prefixes(catalog: Catalog, count: int, seed: int) -> list[Prefix]:
    table = catalog.trie.prefixes()
    chosen = np.random.default_rng(seed).permutation(len(table))[:count]
    return [tuple(codes) for codes in table[chosen].tolist()]


def exact_finisher(catalog: Catalog, *, scale: float = PEAKED) -> Finisher:
    runtime = TorchRuntime(toy_recommender(catalog, scale=scale).double())
    return Finisher(NumpySearch(runtime), catalog)


@pytest.mark.parametrize("prunes", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ["torch-float64", "onnx-float32", "native-float32"])
@pytest.mark.parametrize(("sizes", "depth"), SHAPES)
def test_finish_equals_scoring_every_item(
    sizes: tuple[int, ...],
    depth: int,
    name: str,
    layers: int,
    prunes: bool,
    tmp_path: Path,
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=120)
    recommender = toy_recommender(catalog, layers=layers).double()
    served = toy_recommender(catalog, layers=layers)
    searcher = toy_searcher(served, name, tmp_path, prunes=prunes)
    assert searcher.precision == name
    finisher = Finisher(searcher, catalog)
    tolerance = 1e-9 if name == "torch-float64" else 1e-4
    with torch.inference_mode():
        for seed, history in enumerate(toy_histories(catalog, num_users=4)):
            scores = brute_force(recommender, catalog, history)
            prefixes = some_prefixes(catalog, 7, seed)
            legal = [
                row for row in range(len(catalog)) if tuple(catalog.sids[row, :depth]) in prefixes
            ]
            expected = sorted(legal, key=lambda row: (-round(scores[row], 9), row))[:10]
            found = finisher.finish(finisher.encode(history), finisher.candidates(prefixes), k=10)
            assert [item.row for item in found] == expected
            assert [item.logprob for item in found] == pytest.approx(
                [scores[row] for row in expected], abs=tolerance
            )


@pytest.mark.parametrize("name", ["torch-float64", "onnx-float32", "native-float32"])
def test_none_wanted_is_none_found(name: str, tmp_path: Path) -> None:
    catalog = toy_catalog()
    finisher = Finisher(toy_searcher(toy_recommender(catalog), name, tmp_path), catalog)
    state = finisher.encode([1, 2])
    assert finisher.rank_prefixes(state, count=0).tolist() == []
    assert finisher.finish(state, finisher.own_prefixes(state, count=5), k=0) == []


@pytest.mark.parametrize("name", ["torch-float64", "native-float32"])
@pytest.mark.parametrize("scale", [PEAKED, FLAT])
@pytest.mark.parametrize(("sizes", "depth"), SHAPES)
def test_pruning_changes_nothing_but_the_number_of_nodes(
    sizes: tuple[int, ...], depth: int, scale: float, name: str, tmp_path: Path
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=400)
    pruned, full = (
        Finisher(
            toy_searcher(toy_recommender(catalog, scale=scale), name, tmp_path, prunes=prunes),
            catalog,
        )
        for prunes in (True, False)
    )
    prefixes = pruned.candidates(some_prefixes(catalog, 40, seed=1))
    for k, history in enumerate(toy_histories(catalog), start=1):
        state = pruned.encode(history)
        found = pruned.finish(state, prefixes, k=k, exclude=history)
        expected = full.finish(state, prefixes, k=k, exclude=history)
        assert [item.row for item in found] == [item.row for item in expected]
        assert [item.logprob for item in found] == pytest.approx(
            [item.logprob for item in expected], abs=1e-9
        )
    assert pruned.num_opened <= full.num_opened


def test_a_peaked_model_opens_a_fraction_of_the_nodes() -> None:
    catalog = toy_catalog(num_items=2000)
    runtime = TorchRuntime(toy_recommender(catalog, scale=12.0).double())
    pruned = Finisher(NumpySearch(runtime), catalog)
    full = Finisher(NumpySearch(runtime, prunes=False), catalog)
    for history in toy_histories(catalog):
        state = pruned.encode(history)
        prefixes = pruned.candidates(some_prefixes(catalog, 50, seed=len(history)))
        for finisher in (pruned, full):
            finisher.finish(state, prefixes, k=10)
    assert pruned.num_opened < 0.6 * full.num_opened


def test_a_flat_model_costs_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing can be pruned, every depth is opened in one call, as without pruning."""
    catalog = toy_catalog(num_items=2000)
    depths: list[int] = []

    class CountingSoftmaxes(Softmaxes):
        def open(self, depth: int, at_M: Ints) -> Opened:
            depths.append(depth)
            return super().open(depth, at_M)

    monkeypatch.setattr("models.online.best_first.Softmaxes", CountingSoftmaxes)
    finisher = exact_finisher(catalog, scale=0.01)
    prefixes = finisher.candidates(some_prefixes(catalog, 50, seed=0))
    finisher.finish(finisher.encode([1, 2]), prefixes, k=len(catalog))
    assert depths == [0, 1, 2]


def test_a_filter_that_leaves_little_is_filled_as_far_as_the_space_allows() -> None:
    catalog = toy_catalog(num_items=400)
    finisher = exact_finisher(catalog)
    state = finisher.encode([1, 2, 3])
    prefixes = finisher.candidates(some_prefixes(catalog, 40, seed=3))
    everything = finisher.finish(state, prefixes, k=len(catalog))
    rare = np.zeros(len(catalog), dtype=bool)
    rare[[item.row for item in everything[7::60]]] = True
    found = finisher.finish(state, prefixes, k=5, allowed_N=rare)
    assert [item.row for item in found] == [item.row for item in everything if rare[item.row]][:5]
    banned = {found[0].row}
    again = finisher.finish(state, prefixes, k=5, allowed_N=rare, exclude=banned)
    assert [item.row for item in again][:2] == [item.row for item in found[1:3]]
    assert finisher.finish(state, prefixes, k=5, allowed_N=np.zeros(len(catalog), bool)) == []


def test_excluded_rows_make_room_and_shared_sids_expand() -> None:
    catalog = toy_catalog(sizes=(2, 2, 2), num_items=40)
    finisher = exact_finisher(catalog)
    state, prefixes = finisher.encode([0, 1]), finisher.candidates([(0, 0), (0, 1)])
    everything = finisher.finish(state, prefixes, k=100)
    legal = sum(tuple(sid) in {(0, 0), (0, 1)} for sid in catalog.sids[:, :2].tolist())
    assert len(everything) == legal
    banned = {everything[0].row, everything[2].row}
    expected = [item for item in everything if item.row not in banned][:5]
    assert finisher.finish(state, prefixes, k=5, exclude=banned) == expected
    assert finisher.finish(state, prefixes, k=100) == everything, "exclusions last one request"


def test_unknown_and_repeated_prefixes_are_harmless() -> None:
    catalog = toy_catalog(num_items=20)
    finisher = exact_finisher(catalog)
    known = some_prefixes(catalog, 3, seed=0)
    unknown = next((a, b) for a in range(8) for b in range(8) if not catalog.trie.contains((a, b)))

    def finish(prefixes: list[Prefix]) -> list[Scored]:
        return finisher.finish(finisher.encode([1]), finisher.candidates(prefixes), k=9)

    assert finish([*known, unknown, *known, (99, 99)]) == finish(known)
    assert finish([unknown]) == []
    assert finish([]) == []


@pytest.mark.parametrize("num_items", [0, 1])
def test_the_smallest_catalogs_finish(num_items: int) -> None:
    catalog = toy_catalog(num_items=num_items)
    finisher = exact_finisher(catalog)
    state = finisher.encode([])
    own = finisher.own_prefixes(state, count=5)
    assert len(own.prefix_nodes) == num_items
    assert [item.row for item in finisher.finish(state, own, k=5)] == list(range(num_items))


def test_own_prefixes_are_the_exact_best() -> None:
    catalog = toy_catalog()
    finisher = exact_finisher(catalog)
    history = toy_histories(catalog)[1]
    with torch.inference_mode():
        scores = brute_force(toy_recommender(catalog).double(), catalog, history, depth=2)
    nodes = catalog.trie.nodes(catalog.sids[:, :2]).tolist()
    by_node = dict(zip(nodes, scores, strict=True))
    expected = sorted(by_node, key=lambda node: (-by_node[node], node))[:12]
    state = finisher.encode(history)
    assert finisher.rank_prefixes(state, count=12).tolist() == expected
    own = finisher.own_prefixes(state, count=12)
    assert own.prefix_nodes.tolist() == sorted(expected)


def test_a_union_holds_the_prefixes_of_both() -> None:
    catalog = toy_catalog()
    finisher = exact_finisher(catalog)
    first = finisher.candidates(some_prefixes(catalog, 5, seed=1))
    second = finisher.candidates(some_prefixes(catalog, 5, seed=2))
    both = finisher.union(first, second)
    expected = {*first.prefix_nodes.tolist(), *second.prefix_nodes.tolist()}
    assert set(both.prefix_nodes.tolist()) == expected


def test_the_whole_catalog_is_a_tree_like_any_other() -> None:
    catalog = toy_catalog(sizes=(6, 5, 4, 7), num_items=300)
    finisher = exact_finisher(catalog)
    state = finisher.encode([5, 6])
    prefixes = [tuple(codes) for codes in catalog.trie.prefixes().tolist()]
    explicit = finisher.finish(state, finisher.candidates(prefixes), k=20)
    whole = finisher.finish(state, Candidates(catalog.trie), k=20)
    assert [item.row for item in whole] == [item.row for item in explicit]


@pytest.mark.parametrize("name", ["torch-float32", "native-float32"])
def test_scores_that_are_not_numbers_never_come_out(name: str, tmp_path: Path) -> None:
    catalog = toy_catalog()
    recommender = toy_recommender(catalog)
    with torch.no_grad():
        dict(recommender.named_parameters())["queries.2.bias"][:8] = float("nan")
    finisher = Finisher(toy_searcher(recommender, name, tmp_path), catalog)
    prefixes = finisher.candidates(some_prefixes(catalog, 9, 0))
    assert finisher.finish(finisher.encode([1, 2]), prefixes, k=10) == []
