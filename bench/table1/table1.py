"""`python -m bench table1`: train the baselines of the paper's Table 1 and judge them beside ours.

Each contender's settings are tried, and the best one by validation NDCG@10 is trained on, within a
budget of CPU time. Run it again with the same work folder to go on after a stop. It needs the
environment of `make baselines`; without --models it trains nothing and needs no library of others
for contenders that have not been trained.
"""

import argparse
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.common.command_line import add_json, add_own_data, add_release, make_parser
from bench.common.leave_one_out import target_rows
from bench.common.own_data import load_own_data
from bench.common.results import Row, open_console, open_progress, print_table, write_json
from bench.quality.learnt import refuse_learnt
from bench.quality.ranking.paired_differences import print_differences, to_json
from bench.quality.ranking.plain_rows import rank_plain
from bench.quality.ranking.prefix_map import PrefixMap
from bench.quality.ranking.quality_rows import COUNTS, ONLINE, SASREC, Outcome, summarise
from bench.quality.ranking.row_sets import count_trained, model_rows, sasrec_row, simple_rows
from bench.quality.ranking.target_groups import count_groups, group_targets
from bench.table1.best_trial import Standing, find_standings, run_entry
from bench.table1.budgeted_fit import Budget
from bench.table1.padded_rows import World
from bench.table1.paper_figures import paper_columns
from bench.table1.tried_settings import ENTRIES
from models.baselines.sasrec import load_sasrec
from models.catalog.dataset import Dataset
from models.errors import ReleaseMismatch
from models.extras import needs_extras
from models.release.release import Release

_SASREC = Path(__file__).parents[1] / "sasrec" / "model.safetensors"
_METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_COLUMNS = ("name", *_METRICS, "paper_recall@10", "recall@10_other_day")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    budget = Budget(options.try_minutes, options.train_minutes)
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    refuse_learnt(release, "test")
    world = World.load(
        dataset, release.catalog, num_validation=budget.num_validation, seed=budget.seed
    )
    with needs_extras("baselines"):
        for name in options.models:
            run_entry(name, ENTRIES[name], world, options.work, budget)
        standings = find_standings(list(ENTRIES), ENTRIES, world, options.work, budget)
    _report(options, release, dataset, world, standings, budget)
    return 0


def _report(
    options: argparse.Namespace,
    release: Release,
    dataset: Dataset,
    world: World,
    standings: dict[str, Standing],
    budget: Budget,
) -> None:
    """Judge all rows together, print them and write the results file."""
    outcomes = _judge_ours(release, dataset, world) | _judge(standings, world)
    groups = group_targets(world.test, count_trained(dataset, release.catalog))
    compared = [(ONLINE, name) for name in (COUNTS, SASREC, *standings)]
    table = summarise(outcomes, groups, seed=budget.seed, compared=compared)
    rows = [_add_paper(row, options.data.name) for row in table.rows]
    meta: dict[str, Any] = {
        "command": "table1",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "split": "test",
        "users": len(world.test),
        "items": len(release.catalog),
        "threads": 1,
        "groups": count_groups(groups),
        "budget": asdict(budget),
        "contenders": {name: standing.facts for name, standing in standings.items()},
        "not_trained": [name for name in ENTRIES if name not in standings],
        "differences": to_json(table.differences),
    }
    console = open_console()
    print_table(console, f"{meta['release']}, {meta['users']:,} users", rows, _COLUMNS)
    print_differences(
        console,
        {
            name: {metric: found[metric] for metric in _METRICS}
            for name, found in table.differences.items()
        },
    )
    console.print(f"not trained: {', '.join(meta['not_trained']) or 'none'}")
    if options.json:
        write_json(options.json, meta, rows)


def _judge_ours(release: Release, dataset: Dataset, world: World) -> dict[str, Outcome]:
    """Rank by popularity, counts, our SASRec if it knows these items, and the online model."""
    rankers = simple_rows(dataset, release.catalog) | model_rows(release)
    with suppress(ReleaseMismatch):  # SASRec of another catalog has no row
        rankers |= sasrec_row(load_sasrec(_SASREC, release.catalog.item_ids))
    with open_progress(open_console(), "ranking ours", len(world.test)) as on_progress:
        return rank_plain(rankers, release.catalog, world.test, on_progress=on_progress)


def _judge(standings: dict[str, Standing], world: World) -> dict[str, Outcome]:
    everything = PrefixMap(world.catalog).cover_everything(target_rows(world.test))
    return {
        name: Outcome(standing.ranks.rank_U, everything, standing.ranks.seconds)
        for name, standing in standings.items()
    }


def _add_paper(row: Row, data: str) -> Row:
    return {**row, **paper_columns(data, str(row["name"]))}


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("table1", __doc__)
    add_release(parser)
    add_own_data(parser)
    add_json(parser)
    add = parser.add_argument
    add(
        "--models",
        nargs="*",
        default=[],
        choices=tuple(ENTRIES),
        metavar="NAME",
        help=f"contenders to train, in this order: {', '.join(ENTRIES)} (default: none)",
    )
    add(
        "--work",
        type=Path,
        default=Path(".state/table1"),
        metavar="DIR",
        help="trials and ranks so far (default: %(default)s)",
    )
    for name, purpose in (
        ("try", "CPU minutes for each setting"),
        ("train", "CPU minutes in all for the best setting"),
    ):
        add(
            f"--{name}-minutes",
            type=float,
            default=getattr(Budget, f"{name}_minutes"),
            metavar="M",
            help=f"{purpose} (default: %(default)s)",
        )
    return parser
