"""`python -m bench quality`: compute the quality table of a release on a data folder.

Popularity and item-item counts stand in every table. Thoughts of an earlier run are read from the
cache; with --no-thoughts there are only the rows that need no reasoner.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.results import open_console, print_table, write_json
from bench.quality.protocol import Inputs, rank_not_refit, rank_refit, tie_table
from bench.quality.quality_options import add_budget, describe_run, draw_cases, quality_parser
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.quality_rows import METRICS, Row, Table, summarise
from bench.quality.ranking.row_sets import count_trained
from bench.quality.ranking.target_groups import count_groups, group_targets
from bench.quality.thought_rows import ThoughtRows, rank_thoughts
from bench.quality.thoughts.no_thought import Manner
from models.errors import InvalidSettings

_COLUMNS = ("name", "recall@5", "recall@10", "ndcg@5", "ndcg@10")
_DAY_COLUMNS = (
    "name",
    "recall@10_same_day",
    "recall@10_other_day",
    "ndcg@10_same_day",
    "ndcg@10_other_day",
)
_AGE_COLUMNS = (
    "name",
    "recall@10_trained_never",
    "recall@10_trained_1_to_3",
    "recall@10_trained_more",
)
_PREFIX_COLUMNS = ("name", "prefix_recall", "prefixes", "fan_out", "seconds")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.no_thoughts and options.day_before:
        raise InvalidSettings("--no-thoughts and --day-before, expected one of them")
    console = open_console()
    torch.set_num_threads(options.workers)
    inputs = Inputs.load(options)
    release = inputs.release
    cases = draw_cases(options, release, inputs.dataset)
    outcomes = rank_not_refit(console, inputs, cases) | rank_refit(console, inputs, cases)
    found = None if options.no_thoughts else _rank_thoughts(console, inputs, cases)
    groups = group_targets(cases, count_trained(inputs.dataset, release.catalog))
    table = summarise(
        outcomes | (found.outcomes if found else {}),
        groups,
        has_own_prefix_U=found.has_own_prefix_U if found else None,
        seed=options.seed,
    )
    tables = [table, *([tie_table(console, inputs)] if options.ties is not None else [])]
    meta = {
        **describe_run("quality", options, release, cases),
        "items": len(release.catalog),
        "workers": options.workers,
        "groups": count_groups(groups),
        **_describe(tables, inputs, found),
    }
    _print(console, tables, meta)
    if options.json:
        write_json(options.json, meta, [row for table in tables for row in table.rows])
    return 0


def _rank_thoughts(console: Console, inputs: Inputs, cases: Sequence[Case]) -> ThoughtRows:
    return rank_thoughts(console, inputs.options, inputs.release, inputs.dataset, cases)


def _describe(tables: Sequence[Table], inputs: Inputs, found: ThoughtRows | None) -> dict[str, Any]:
    differences = {name: one for table in tables for name, one in table.differences.items()}
    meta: dict[str, Any] = {"differences": to_json(differences)}
    if inputs.refit is not None:
        meta["refit"] = f"{inputs.refit.name}@{inputs.refit.version}"
    if inputs.options.ties is not None:
        meta["ties"] = inputs.options.ties
    if found is not None:
        meta |= found.meta
    if tables[0].own_prefix_recall is not None:
        meta["own_prefix_recall"] = tables[0].own_prefix_recall._asdict()
    return meta


def _print(console: Console, tables: Sequence[Table], meta: dict[str, Any]) -> None:
    title = f"{meta['release']} on {meta['split']}, {meta['users']:,} users, 95% intervals"
    _print_rows(console, title, tables[0].rows)
    for shuffled in tables[1:]:
        _print_rows(console, f"{title}, ties shuffled by seed {meta['ties']}", shuffled.rows)
    for group, num_users in meta["groups"].items():
        console.print(f"{group.replace('_', ' ')}: {num_users:,} users")
    print_table(console, "prefixes to choose from", tables[0].rows, _PREFIX_COLUMNS)
    for table in tables:
        print_differences(console, _of_all_users(table.differences))
    for share_of, share in meta.get("grounding", {}).items():
        console.print(f"{share_of.replace('_', ' ')}: {share:.1%}")


def _print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    print_table(console, title, rows, _COLUMNS)
    print_table(console, "target on the day of the item before it", rows, _DAY_COLUMNS)
    print_table(console, "how often the target was trained on", rows, _AGE_COLUMNS)


def _of_all_users(differences: Differences) -> Differences:
    """Leave out the differences within groups; they stand in the JSON."""
    metrics = (*METRICS, "prefix_recall")
    return {
        name: {metric: found[metric] for metric in metrics if metric in found}
        for name, found in differences.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = quality_parser("quality", __doc__, num_users=0)
    add_budget(parser)
    add = parser.add_argument
    add(
        "--at-once",
        choices=(Manner.SILENT.value, Manner.PREFERENCE.value),
        default=Manner.SILENT.value,
        help="prompt of the reasoner without a thought (default: %(default)s)",
    )
    add("--sasrec", type=Path, metavar="DIR", help="SASRec weights (default: bench/sasrec)")
    add("--no-thoughts", action="store_true", help="only the rows that need no reasoner")
    add(
        "--day-before",
        action="store_true",
        help="think again about histories up to the day before the target; adds their rows",
    )
    add(
        "--refit",
        type=Path,
        metavar="DIR",
        help="release that has learnt all but the test items; adds its rows",
    )
    add("--sasrec-refit", type=Path, metavar="DIR", help="SASRec weights, refit; adds their row")
    add(
        "--ties",
        type=int,
        metavar="SEED",
        help="add rows with the order inside each day shuffled by SEED",
    )
    return parser
