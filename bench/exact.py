"""The one-pass finish against brute force: every item of the catalog scored on its own in float64.

The reference goes the way of training, one teacher-forced chain an item; it knows no trie, no tree
and no prefix. Real users, the release's own weights, their best prefixes as C_u.
"""

# N = catalog rows, M = chain nodes of a chunk of items, L = levels

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.numpy import load_file

from bench.histories import cut_histories
from bench.report import open_console, print_table, write_json
from models.best_first import NumpySearch
from models.build_kernel import built_library
from models.candidates import Candidates
from models.catalog import Catalog
from models.dataset import load_dataset
from models.finish import Finisher, Scored
from models.history import window_start
from models.native_runtime import NATIVE
from models.one_pass import CatalogScorer
from models.recommender import (
    Memory,
    Nodes,
    OnlineRecommender,
    chain_nodes,
    last_row,
)
from models.release import MIN_OVERLAP, Release
from models.runtime import ONNX, OnnxRuntime
from models.torch_runtime import TorchRuntime, copy_recommender, load_recommender

NUM_PREFIXES = 100
K = 10
_CHUNK_ITEMS = 1024
_TIE = 1e-9
_COLUMNS = ("name", "users", "items", "max_abs_difference", "top_sets_that_differ")


def brute_force(
    recommender: OnlineRecommender, catalog: Catalog, memory: Memory
) -> NDArray[np.float64]:
    """log P(SID | history) of every catalog row for one user: (N,)."""
    sids_NL = torch.from_numpy(catalog.sids.astype(np.int64))
    root_11W = memory.states_BHW[:, last_row(memory)]
    parts = []
    for chunk_NL in sids_NL.split(_CHUNK_ITEMS):
        below = recommender.decode(memory, _chains(chunk_NL))[0].unflatten(0, (len(chunk_NL), -1))
        hidden = torch.cat([root_11W.expand(len(below), 1, -1), below], dim=1)
        steps = [
            recommender.code_logprobs(hidden[:, level], level)
            .gather(1, chunk_NL[:, level : level + 1])
            .squeeze(1)
            for level in range(chunk_NL.shape[1])
        ]
        parts.append(torch.stack(steps).sum(dim=0))
    return torch.cat(parts).numpy()


def _chains(sids_NL: torch.Tensor) -> Nodes:
    """L - 1 nodes an item, below the last row of the history."""
    return chain_nodes(sids_NL.unsqueeze(0))._replace(position_M=None)


def expected_top(
    scores_N: NDArray[np.float64], catalog: Catalog, prefixes: Candidates
) -> list[int]:
    """The K best rows below `prefixes`, best first, ties by row."""
    depth = catalog.space.prefix_depth
    node_N = catalog.trie.nodes(catalog.sids[:, :depth])
    below = np.flatnonzero(np.isin(node_N, prefixes.prefix_nodes)).tolist()
    return sorted(below, key=lambda row: (-scores_N[row], row))[:K]


def differs(
    found: Sequence[Scored], expected: Sequence[int], scores_N: NDArray[np.float64]
) -> bool:
    """Whether the two sets differ by more than a tie of the reference."""
    if len(found) != len(expected):
        return True
    strangers = {item.row for item in found} - set(expected)
    worst = min((scores_N[row] for row in expected), default=0.0)
    return any(scores_N[row] < worst - _TIE for row in strangers)


@torch.inference_mode()
def compare(
    release: Release, histories: Sequence[Sequence[int]]
) -> list[dict[str, str | int | float]]:
    """One row a runtime: float64, and what the release may serve with."""
    catalog, window = release.catalog, release.recommender_config.window
    reference = copy_recommender(load_recommender(release), torch.float64)
    scorer = CatalogScorer(reference, catalog)
    exact = Finisher(NumpySearch(TorchRuntime(reference)), catalog)
    finishers = {"torch-float64": exact, **_served(release)}
    worst, num_differing = dict.fromkeys(finishers, 0.0), dict.fromkeys(finishers, 0)
    for history in track(histories, description="brute force"):
        scores_N = brute_force(reference, catalog, scorer.encode([history]))
        recent = history[window_start(len(history), window) :]
        prefixes = exact.own_prefixes(exact.encode(recent), count=NUM_PREFIXES)
        expected = expected_top(scores_N, catalog, prefixes)
        for name, finisher in finishers.items():
            found = finisher.finish(finisher.encode(recent), prefixes, k=K)
            errors = [abs(item.logprob - scores_N[item.row]) for item in found]
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
    """Every precision that a service may load, and one of them without pruning."""
    precisions = release.manifest.precisions
    loadable = [name for name, judged in precisions.items() if judged.overlap >= MIN_OVERLAP]
    if built_library() is None:
        loadable = [name for name in loadable if name != NATIVE]
    finishers = {
        name: Finisher(release.load_searcher(name), release.catalog) for name in sorted(loadable)
    }
    runtime = OnnxRuntime(
        release.directory,
        release.recommender_config,
        load_file(release.directory / "online.safetensors"),
    )
    unpruned = Finisher(NumpySearch(runtime, whole_nodes=math.inf), release.catalog)
    return {**finishers, f"{ONNX}-unpruned": unpruned}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    release = Release.load(options.release)
    cases = cut_histories(
        load_dataset(options.data), release.catalog, split="test", num_users=options.users
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
    parser = argparse.ArgumentParser(prog="python -m bench exact", allow_abbrev=False)
    add = parser.add_argument
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--users", type=int, default=200, metavar="N")
    add("--json", type=Path, metavar="FILE")
    return parser
