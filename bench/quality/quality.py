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

from bench.common.results import open_console, open_progress, print_table, write_json
from bench.quality.quality_options import add_budget, describe_run, draw_cases, quality_parser
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.plain_rows import rank_plain
from bench.quality.ranking.quality_rows import METRICS, Table, summarise
from bench.quality.ranking.row_sets import count_trained, model_rows, simple_rows
from bench.quality.ranking.target_groups import count_groups, group_targets
from bench.quality.thought_rows import ThoughtRows, rank_thoughts
from bench.quality.thoughts.no_thought import Manner
from models.baselines.sasrec import SasRec, load_sasrec
from models.catalog.catalog import Catalog
from models.catalog.dataset import load_dataset
from models.errors import ReleaseMismatch
from models.release.release import Release

_SASREC = Path(__file__).parents[1] / "sasrec"
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
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    dataset = load_dataset(options.data)
    cases = draw_cases(options, release.catalog, dataset)
    sasrec = _load_sasrec(options.sasrec, release.catalog)
    rankers = simple_rows(dataset, release.catalog) | model_rows(release, sasrec)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        outcomes = rank_plain(rankers, release.catalog, cases, on_progress=on_progress)
    found = None if options.no_thoughts else rank_thoughts(console, options, release, cases)
    groups = group_targets(cases, count_trained(dataset, release.catalog))
    table = summarise(
        outcomes | (found.outcomes if found else {}),
        groups,
        has_own_prefix_U=found.has_own_prefix_U if found else None,
        seed=options.seed,
    )
    meta = {
        **describe_run("quality", options, release, cases),
        "items": len(release.catalog),
        "workers": options.workers,
        "groups": count_groups(groups),
        **_describe(table, found),
    }
    _print(console, table, meta)
    if options.json:
        write_json(options.json, meta, table.rows)
    return 0


def _load_sasrec(folder: Path | None, catalog: Catalog) -> SasRec | None:
    """Load SASRec from `folder`, by default the bundled one.

    Return None if the bundled one belongs to another catalog. Raises ReleaseMismatch if the one in
    `folder` does.
    """
    try:
        return load_sasrec((folder or _SASREC) / "model.safetensors", catalog.item_ids)
    except ReleaseMismatch:
        if folder is None:
            return None
        raise


def _describe(table: Table, found: ThoughtRows | None) -> dict[str, Any]:
    meta: dict[str, Any] = {"differences": to_json(table.differences)}
    if found is not None:
        meta |= found.meta
    if table.own_prefix_recall is not None:
        meta["own_prefix_recall"] = table.own_prefix_recall._asdict()
    return meta


def _print(console: Console, table: Table, meta: dict[str, Any]) -> None:
    title = f"{meta['release']} on {meta['split']}, {meta['users']:,} users, 95% intervals"
    print_table(console, title, table.rows, _COLUMNS)
    print_table(console, "target on the day of the item before it", table.rows, _DAY_COLUMNS)
    print_table(console, "how often the target was trained on", table.rows, _AGE_COLUMNS)
    for group, num_users in meta["groups"].items():
        console.print(f"{group.replace('_', ' ')}: {num_users:,} users")
    print_table(console, "prefixes to choose from", table.rows, _PREFIX_COLUMNS)
    print_differences(console, _of_all_users(table.differences))
    for share_of, share in meta.get("grounding", {}).items():
        console.print(f"{share_of.replace('_', ' ')}: {share:.1%}")


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
    return parser
