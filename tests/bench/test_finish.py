"""`bench finish` and `bench scale`: contenders that agree, requests as asked, work counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.finish import scale
from bench.finish.contenders import K, Ours
from bench.finish.finish_time import Setting, Timing, measure, rows_of
from bench.finish.finish_world import World, histories_of, searchers
from bench.finish.flop_count import measured_peak, query_flop, row_flop
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import TorchRuntime
from tests.fakes.toy import toy_catalog, toy_histories, toy_onnx, toy_recommender


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    catalog = toy_catalog(num_items=400)
    recommender = toy_recommender(catalog)
    onnx = toy_onnx(recommender, tmp_path_factory.mktemp("graphs"))
    weights = {name: value.numpy() for name, value in recommender.state_dict().items()}
    return World(catalog, searchers(recommender.config, weights, onnx, recommender), generator=None)


def test_every_way_of_ours_gives_the_same_answer(world: World) -> None:
    histories = [rows for rows in toy_histories(world.catalog) if len(rows) > 1][:4]
    for request in world.requests(histories, num_prefixes=20):
        finisher = Finisher(
            NumpySearch(TorchRuntime(toy_recommender(world.catalog).double())), world.catalog
        )
        state = finisher.encode(request.rows)
        expected = [item.row for item in finisher.finish(state, request.candidates, k=K)]
        ours = [contender for contender in world.contenders() if isinstance(contender, Ours)]
        assert len(ours) == (12 if built_library() is None else 18)
        for contender in ours:
            contender.prepare(*request)
            assert contender.answer() == expected, contender.name
            assert contender.nodes > 0


def test_work_is_counted_by_answer_and_pruning_saves_some(world: World) -> None:
    requests = world.requests(toy_histories(world.catalog)[:6], num_prefixes=30)
    prunes, opens_all = world.searchers[0]
    pruned, full, stateless = (
        Ours(searcher, world.catalog, prunes=searcher is prunes, new_items=new_items)
        for searcher, new_items in ((prunes, 0), (opens_all, 0), (opens_all, None))
    )
    timings = list(measure([pruned, full, stateless], requests))
    assert timings[0].nodes <= timings[1].nodes == timings[2].nodes
    assert timings[1].flop < timings[2].flop
    again = list(measure([full], requests))
    assert (again[0].nodes, again[0].flop) == (timings[1].nodes, timings[1].flop)


def test_ratios_are_of_medians_to_generate(world: World) -> None:
    names = ("generate", "generate_exact", "ours")
    contenders = [
        replace_name(Ours(world.searchers[0][0], world.catalog, prunes=True, new_items=0), name)
        for name in names
    ]
    timings = [
        Timing([100.0, 200, 300], 0, 0),
        Timing([900.0] * 3, 0, 0),
        Timing([2.0] * 3, 5, 1e6),
    ]
    rows = rows_of(Setting(50, 100), world, contenders, timings, peak=1.0)
    assert [row["ratio_to_generate"] for row in rows] == pytest.approx([1, 200 / 900, 100])
    assert rows[2]["ratio_to_exact_generate"] == pytest.approx(450)
    assert rows[2]["peak_share"] == pytest.approx(1e6 / 2e-3 / 1e9)
    assert "nodes" not in rows[0]


def replace_name(contender: Ours, name: str) -> Ours:
    contender.name = name
    return contender


def test_histories_are_as_long_as_asked_and_joined_only_where_they_must_be() -> None:
    users = [list(range(30)), list(range(100, 105)), list(range(200, 204))]
    assert histories_of(users, length=20, num_users=1) == [list(range(10, 30))]
    joined = histories_of(users, length=33, num_users=5)
    assert [len(rows) for rows in joined] == [33]
    assert joined[0] == [*range(2, 30), *range(100, 105)]


def test_a_wider_mlp_and_a_larger_codebook_cost_more_on_paper() -> None:
    config = RecommenderConfig(sizes=(64, 64, 256))
    wide = replace(config, mlp=config.mlp + 1)
    assert row_flop(wide, 51) - row_flop(config, 51) == config.layers * 4 * 128**2
    assert row_flop(config, 100) - row_flop(config, 99) == config.layers * 4 * 128
    larger = replace(config, sizes=(64, 64, 257))
    assert query_flop(larger) - query_flop(config) == 2 * 128


def test_the_peak_of_a_core_is_measured_by_three_libraries() -> None:
    peaks = measured_peak()
    assert set(peaks) == {"numpy", "torch", "onnxruntime"}
    assert min(peaks.values()) > 0.1


def test_a_scale_row_names_what_it_gathered(tmp_path: Path) -> None:
    assert scale.main(["--items", "3000", "5000", "--json", str(tmp_path / "scale.json")]) == 0
    assert (tmp_path / "scale.md").is_file()


def test_a_skewed_catalog_has_a_prefix_of_very_many_items() -> None:
    catalog = scale.bare_catalog(scale.random_sids(20_000, is_skewed=True, seed=0))
    fan_out = np.diff(catalog.trie.first_child[2])
    candidates = scale.some_candidates(catalog, has_largest=True, seed=1)
    assert fan_out.max() > 100 * np.median(fan_out)
    assert int(np.argmax(fan_out)) in candidates.prefix_nodes
