"""`python -m bench quality`: compute the quality table of a release on a data folder.

Thoughts of an earlier run are read from the cache.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.results import open_console, open_progress, print_table, write_json
from bench.quality.quality_options import (
    add_budget,
    describe_run,
    draw_cases,
    quality_parser,
    read_settings,
)
from bench.quality.ranking.evaluation import Evaluation
from bench.quality.ranking.paired_differences import print_differences, to_json
from bench.quality.ranking.quality_rows import Table
from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import Thoughts, without_thought
from models.baselines.sasrec import SasRec, load_sasrec
from models.catalog.catalog import Catalog
from models.errors import ReleaseMismatch
from models.online.finish import Finisher
from models.reasoner.rationales import ground
from models.release.release import Release
from models.release.searchers import load_searcher

_SASREC = Path(__file__).parents[1] / "sasrec"
_COLUMNS = ("name", "recall@5", "recall@10", "ndcg@5", "ndcg@10")
_PREFIX_COLUMNS = ("name", "prefix_recall", "prefixes", "fan_out", "seconds")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    cases = draw_cases(options, release.catalog)
    sasrec = _load_sasrec(options.sasrec, release.catalog)
    settings = read_settings(options)
    cache = ThoughtCache.open(options.cache, release, settings)
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    silent = without_thought(settings, Manner(options.at_once))
    at_once_cache = ThoughtCache.open(options.cache, release, silent)
    at_once = think_cases(console, at_once_cache, cases, workers=options.workers)
    finisher = Finisher(load_searcher(release), release.catalog)
    evaluation = Evaluation(finisher, release.catalog, cases, thoughts, sasrec, at_once)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        table = evaluation.run(seed=options.seed, on_progress=on_progress)
    meta = {
        **describe_run("quality", options, release, cases),
        "items": len(release.catalog),
        "settings": settings.to_json(),
        "without_thought": silent.to_json(),
        "workers": options.workers,
        "thoughts": describe_thoughts(thoughts),
        "grounding": describe_grounding(release.catalog, cases, thoughts),
        **_describe(table),
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


def describe_thoughts(thoughts: Thoughts) -> dict[str, float]:
    """Return totals of a night: closed and dropped paths, tokens, seconds over all workers."""
    return {
        "paths": sum(len(user.texts) for user in thoughts.users),
        "dropped_paths": sum(user.dropped_paths for user in thoughts.users),
        "tokens": sum(user.tokens for user in thoughts.users),
        "seconds": thoughts.seconds,
    }


def describe_grounding(
    catalog: Catalog, cases: Sequence[Case], thoughts: Thoughts
) -> dict[str, float]:
    """Return how far thoughts are grounded in the history.

    One figure is the share of thoughts that name a topic of the history. The other is the share of
    named topics that occur in the history.
    """
    found = [
        ground(catalog, case.history.rows, text)
        for case, user in zip(cases, thoughts.users, strict=True)
        for text in user.texts
    ]
    return {
        "thoughts_naming_the_history": sum(one.found > 0 for one in found) / max(1, len(found)),
        "named_topics_in_the_history": sum(one.found for one in found)
        / max(1, sum(one.named for one in found)),
    }


def _describe(table: Table) -> dict[str, Any]:
    return {
        "own_prefix_recall": table.own_prefix_recall._asdict(),
        "differences": to_json(table.differences),
    }


def _print(console: Console, table: Table, meta: dict[str, Any]) -> None:
    title = f"{meta['release']} on {meta['split']}, {meta['users']:,} users, 95% intervals"
    print_table(console, title, table.rows, _COLUMNS)
    print_table(console, "prefixes to choose from", table.rows, _PREFIX_COLUMNS)
    print_differences(console, table.differences)
    for what, share in meta["grounding"].items():
        console.print(f"{what.replace('_', ' ')}: {share:.1%}")


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
    return parser
