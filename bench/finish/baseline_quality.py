"""`python -m bench baseline`: ranking quality of the baseline of `bench finish`.

Cases, masks and metrics are those of `bench quality`. The whole catalog is ranked exactly, without
beam search, so that the row measures the model and not the losses of ten beams. Popularity and
counts stand beside it.
"""

# U = users, B = users of a batch, N = catalog rows

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from bench.common.command_line import add_json, add_own_data, add_release, make_parser
from bench.common.leave_one_out import Case, cut_histories, target_rows
from bench.common.own_data import load_own_data
from bench.common.results import open_console, print_table, write_json
from bench.finish.generate import Generator
from bench.quality.ranking.quality_rows import CUTOFFS
from bench.quality.ranking.rank_metrics import bootstrap_named, ndcg_at, rank_targets, recall_at
from bench.quality.ranking.row_sets import rank_simple
from models.baselines.sid_lm import LanguageModelScorer
from models.catalog.catalog import Catalog
from models.release.release import Release

BASELINE = Path("bench/baseline")
EXACT = "baseline_generate_exact"
_BATCH_USERS = 32
_COLUMNS = ("name", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "seconds")


def rank_cases(
    scorer: LanguageModelScorer, cases: Sequence[Case], target_U: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the rank of each target, (U,); infinity if it is not among the first ten or so."""
    rank_U = np.full(len(cases), np.inf)
    batches = _length_batches([len(case.history.rows) for case in cases])
    for users in track(batches, description="ranking"):
        histories = [cases[user].history.rows for user in users]
        seen = [cases[user].seen for user in users]
        scores_BN = scorer.score_top(histories, seen, k=max(CUTOFFS))
        rank_U[users] = rank_targets(scores_BN, target_U[users])
    return rank_U


def _length_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Group users of similar history length: a batch is padded to its longest history."""
    order = sorted(range(len(lengths)), key=lambda user: lengths[user])
    return [order[at : at + _BATCH_USERS] for at in range(0, len(order), _BATCH_USERS)]


def quality_rows(
    ranks: Mapping[str, NDArray[np.float64]], *, seed: int
) -> list[dict[str, str | int | float]]:
    """Return means over users with their 95% bootstrap intervals, one row per name."""
    columns = {
        (name, f"{metric}@{k}"): measure(rank_U, k)
        for name, rank_U in ranks.items()
        for metric, measure in (("recall", recall_at), ("ndcg", ndcg_at))
        for k in CUTOFFS
    }
    rows: dict[str, dict[str, str | int | float]] = {
        name: {"name": name, "users": len(rank_U)} for name, rank_U in ranks.items()
    }
    for (name, column), interval in bootstrap_named(columns, seed=seed).items():
        rows[name] |= interval.columns(column)
    return list(rows.values())


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    release = Release.load(options.release)
    catalog: Catalog = release.catalog
    generator = Generator.load(options.baseline, catalog)
    dataset = load_own_data(options, release)
    cases = cut_histories(dataset, catalog, split=options.split, num_users=options.users)
    ranks = rank_simple(open_console(), dataset, catalog, cases)
    started = time.perf_counter()
    ranks[EXACT] = rank_cases(
        LanguageModelScorer(generator.model, catalog), cases, target_rows(cases)
    )
    seconds = time.perf_counter() - started
    rows = quality_rows(ranks, seed=0)
    rows[-1]["seconds"] = seconds
    title = f"{len(cases):,} users, {options.split} split, {generator.num_parameters:,} parameters"
    print_table(open_console(), title, rows, _COLUMNS)
    if options.json:
        meta = {
            "command": "baseline",
            "release": f"{release.name}@{release.version}",
            "split": options.split,
            "parameters": generator.num_parameters,
        }
        write_json(options.json, meta, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("baseline", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_own_data(parser)
    add("--baseline", type=Path, default=BASELINE, metavar="DIR", help="(default: %(default)s)")
    add("--users", type=int, metavar="N", help="size of a sample (default: all)")
    add("--split", choices=["test", "valid"], default="test", help="(default: %(default)s)")
    add_json(parser)
    return parser
