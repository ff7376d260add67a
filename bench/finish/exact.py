"""`python -m bench exact`: the finish compared with brute force in float64.

The brute force scores every item of the catalog. It uses no trie and no tree: it finds siblings by
comparing codes, and adds the memory's bonus from a table of all items. Users and weights are real;
C_u is the online model's own best prefixes.
"""

# N = catalog rows, M = SID prefixes of one depth, L = levels

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.numpy import load_file

from bench.common.command_line import add_json, add_own_data, add_release, make_parser
from bench.common.leave_one_out import cut_histories
from bench.common.own_data import load_own_data
from bench.common.results import open_console, print_table, write_json
from bench.finish.one_pass import CatalogScorer
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher, Scored
from models.online.history_cache import window_start
from models.online.memory.neighbours import Neighbours
from models.online.native_runtime import NATIVE
from models.online.onnx_runtime import ONNX, OnnxRuntime
from models.online.recommender import OnlineRecommender, pack_sids
from models.online.torch_runtime import TorchRuntime, copy_recommender, load_recommender
from models.release.release import Release
from models.release.searchers import MIN_OVERLAP, load_finisher

NUM_PREFIXES = 100
K = 10
_TIE = 1e-9
_COLUMNS = ("name", "users", "items", "max_abs_difference", "top_sets_that_differ")


def brute_force(
    recommender: OnlineRecommender, catalog: Catalog, state_W: torch.Tensor
) -> NDArray[np.float64]:
    """Return log P(SID | history) of every catalog row for one user, (N,).

    Siblings are found by comparing codes.
    """
    sids_NL = torch.from_numpy(catalog.sids.astype(np.int64))
    total_N = state_W.new_zeros(len(sids_NL))
    group_N = torch.zeros(len(sids_NL), dtype=torch.int64)
    for depth, query in enumerate(recommender.queries, start=1):
        nodes, node_N = sids_NL[:, :depth].unique(dim=0, return_inverse=True)
        parent_M = torch.empty(len(nodes), dtype=torch.int64).scatter(0, node_N, group_N)
        packed_M = pack_sids(nodes, recommender.config.sizes[:depth])
        logits_M = recommender.embed_nodes(packed_M, depth) @ query(state_W)
        for parent in parent_M.unique():
            is_child_M = parent_M == parent
            logits_M[is_child_M] = logits_M[is_child_M].log_softmax(dim=0)
        total_N, group_N = total_N + logits_M[node_N], node_N
    return total_N.numpy()


def dense_bonus(neighbours: Neighbours, history: Sequence[int]) -> NDArray[np.float64]:
    """Return what the memory adds to the score of every catalog row for one user, (N,)."""
    settings = neighbours.settings
    evidence_N = np.zeros(len(neighbours))
    for age, row in enumerate(reversed(history[-settings.recent :])):
        places = slice(neighbours.first[row], neighbours.first[row + 1])
        weight_P = neighbours.weight_P[places].astype(np.float64)
        evidence_N[neighbours.neighbour_P[places]] += settings.decay**age * weight_P
    bonus_N: NDArray[np.float64] = settings.scale * np.log(1 + evidence_N / settings.floor)
    return bonus_N


def expected_top(
    scores_N: NDArray[np.float64], catalog: Catalog, prefixes: Candidates
) -> list[int]:
    """Return the K best rows below `prefixes`, best first, ties by row."""
    depth = catalog.space.prefix_depth
    node_N = catalog.trie.nodes(catalog.sids[:, :depth])
    below = np.flatnonzero(np.isin(node_N, prefixes.prefix_nodes)).tolist()
    return sorted(below, key=lambda row: (-scores_N[row], row))[:K]


def differs(
    found: Sequence[Scored], expected: Sequence[int], scores_N: NDArray[np.float64]
) -> bool:
    """Tell if the two sets differ by more than a tie of the reference."""
    if len(found) != len(expected):
        return True
    strangers = {item.row for item in found} - set(expected)
    worst = min((scores_N[row] for row in expected), default=0.0)
    return any(scores_N[row] < worst - _TIE for row in strangers)


@torch.inference_mode()
def compare(
    release: Release, histories: Sequence[Sequence[int]]
) -> list[dict[str, str | int | float]]:
    """Return one row per runtime: float64, and every precision that the release may serve."""
    catalog, window = release.catalog, release.recommender_config.window
    reference = copy_recommender(
        load_recommender(release.directory, release.recommender_config), torch.float64
    )
    scorer = CatalogScorer(reference, catalog)
    neighbours = release.load_neighbours()
    exact = Finisher(NumpySearch(TorchRuntime(reference)), catalog, neighbours)
    finishers = {"torch-float64": exact, **_served(release)}
    worst, num_differing = dict.fromkeys(finishers, 0.0), dict.fromkeys(finishers, 0)
    for history in track(histories, description="brute force"):
        scores_N = brute_force(reference, catalog, scorer.encode([history])[0])
        recent = history[window_start(len(history), window) :]
        if neighbours is not None:
            scores_N = scores_N + dense_bonus(neighbours, recent)
        prefixes = exact.own_prefixes(exact.encode(recent), count=NUM_PREFIXES)
        expected = expected_top(scores_N, catalog, prefixes)
        for name, finisher in finishers.items():
            found = finisher.finish(finisher.encode(recent), prefixes, k=K)
            errors = [abs(item.score - scores_N[item.row]) for item in found]
            worst[name] = max(worst[name], *errors)
            num_differing[name] += differs(found, expected, scores_N)
    return [
        {
            "name": name,
            "users": len(histories),
            "items": len(catalog),
            "max_abs_difference": worst[name],
            "top_sets_that_differ": num_differing[name],
        }
        for name in finishers
    ]


def _served(release: Release) -> dict[str, Finisher]:
    """Return a finisher per precision that a service may load, and one without pruning."""
    precisions = release.manifest.precisions
    loadable = [name for name, judged in precisions.items() if judged.overlap >= MIN_OVERLAP]
    if built_library() is None:
        loadable = [name for name in loadable if name != NATIVE]
    finishers = {name: load_finisher(release, name) for name in sorted(loadable)}
    runtime = OnnxRuntime(
        release.directory,
        release.recommender_config,
        load_file(release.directory / "online.safetensors"),
    )
    unpruned = Finisher(
        NumpySearch(runtime, prunes=False), release.catalog, release.load_neighbours()
    )
    return {**finishers, f"{ONNX}-unpruned": unpruned}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    release = Release.load(options.release)
    cases = cut_histories(
        load_own_data(options, release), release.catalog, split="test", num_users=options.users
    )
    rows = compare(release, [case.history.rows for case in cases])
    title = f"finish of {NUM_PREFIXES} prefixes against scoring every item in float64"
    print_table(open_console(), title, rows, _COLUMNS)
    for row in rows:
        print(f"{row['name']}: largest absolute difference {row['max_abs_difference']:.2e}")
    if options.json:
        meta = {"command": "exact", "release": f"{release.name}@{release.version}"}
        write_json(options.json, meta, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("exact", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_own_data(parser)
    add("--users", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    add_json(parser)
    return parser
