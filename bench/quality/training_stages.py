"""`python -m bench stages`: the gain of each stage of training (Table 2 of the paper).

    python -m bench stages --row base=preference:W0/integrate --row ia=preference:W1/integrate \\
        --row r=think:W1/activate --row rl=think:W1/enhance

A row is a reasoner alone, loaded from a directory of plain weights over the release's SIDs. Its
manner is `think` (with thoughts), `silent` (with an empty thought) or `preference` (with the prompt
of alignment). Every such row ranks at most T x m SIDs. Popularity and counts stand above them, and
behind each thinking reasoner the same one without a thought, as NAME_silent.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.own_data import load_own_data
from bench.common.results import open_console, report
from bench.quality.quality_options import (
    add_budget,
    describe_run,
    draw_cases,
    quality_parser,
    read_settings,
)
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.quality_rows import CUTOFFS, METRICS
from bench.quality.ranking.rank_metrics import bootstrap_named, ndcg_at, recall_at
from bench.quality.ranking.reasoner_rank import ReasonerRanks, rank_by_reasoner
from bench.quality.ranking.row_sets import rank_simple
from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import without_thought
from models.errors import InvalidInput
from models.release.release import Release

_MEASURED = (*METRICS, "prefix_recall")
_COLUMNS = ("name", *METRICS, "prefix_recall", "sids", "tokens")
_SILENT = "_silent"  # behind the name of a thinking reasoner


class RowSpec(NamedTuple):
    """One `--row NAME=MANNER:DIR`."""

    name: str
    manner: Manner
    directory: Path


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    specs = [read_spec(text) for text in options.row]
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    cases = draw_cases(options, release, dataset)
    settings = read_settings(options)
    ranked: dict[str, ReasonerRanks] = {}
    for spec in add_silent(specs):
        asked = settings
        if spec.manner is not Manner.THINK:
            asked = without_thought(settings, spec.manner)
        cache = ThoughtCache.open(options.cache, release, asked, reasoner_dir=spec.directory)
        console.print(f"{spec.name}: {spec.directory} ({spec.manner})")
        thoughts = think_cases(console, cache, cases, workers=options.workers)
        ranked[spec.name] = rank_by_reasoner(release.catalog, cases, thoughts.users)
    simple = rank_simple(console, dataset, release.catalog, cases)
    before = [(after.name, before.name) for before, after in pairwise(specs)]
    silent = [(spec.name, spec.name + _SILENT) for spec in specs if spec.manner is Manner.THINK]
    rows, gains = summarise(simple, ranked, [*before, *silent], seed=options.seed)
    meta = {
        **describe_run("stages", options, release, cases),
        "settings": settings.to_json(),
        "reasoners": {spec.name: f"{spec.manner}:{spec.directory.name}" for spec in specs},
        "gain_over_the_row_before": to_json(gains),  # and of a thought over none
    }
    title = f"Gain of each stage: reasoners alone, {len(cases):,} users"
    report(console, options.json, title, meta, rows, (_COLUMNS,))
    print_differences(console, gains)
    return 0


def read_spec(text: str) -> RowSpec:
    """Parse a `--row`. Raises InvalidInput for another form or a directory without a model."""
    name, equals, rest = text.partition("=")
    manner, colon, directory = rest.partition(":")
    if not (name and equals and colon and manner in set(Manner)):
        known = "|".join(Manner)
        raise InvalidInput(f"--row {text!r}, expected NAME=MANNER:DIR with MANNER {known}")
    if not (Path(directory) / "config.json").is_file():
        raise InvalidInput(f"--row {text!r}: no config.json there, expected plain weights")
    return RowSpec(name, Manner(manner), Path(directory))


def add_silent(specs: Sequence[RowSpec]) -> list[RowSpec]:
    """Put behind each thinking reasoner the same one without a thought."""
    found = []
    for spec in specs:
        found.append(spec)
        if spec.manner is Manner.THINK:
            found.append(RowSpec(spec.name + _SILENT, Manner.SILENT, spec.directory))
    return found


def summarise(
    simple: Mapping[str, NDArray[np.float64]],
    ranked: Mapping[str, ReasonerRanks],
    compared: Sequence[tuple[str, str]],
    *,
    seed: int,
) -> tuple[list[dict[str, Any]], Differences]:
    """Return one row per ranking, and the gains of compared reasoners, paired by user.

    Args:
        simple: ranks by popularity and counts, which have no prefixes.
        compared: names of a reasoner and of the one that its gain is over.
    """
    measured = {name: _columns(rank_U) for name, rank_U in simple.items()}
    for name, alone in ranked.items():
        has_prefix_U = alone.has_prefix_U.astype(np.float64)
        measured[name] = _columns(alone.rank_U) | {"prefix_recall": has_prefix_U}
    for one, other in compared:
        gains_U = {metric: measured[one][metric] - measured[other][metric] for metric in _MEASURED}
        measured[f"{one} minus {other}"] = gains_U
    columns = {
        (name, metric): values_U
        for name, found in measured.items()
        for metric, values_U in found.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    gains: Differences = {}
    for (name, metric), interval in bootstrap_named(columns, seed=seed).items():
        if name in simple or name in ranked:
            rows.setdefault(name, {"name": name}).update(interval.columns(metric))
        else:
            gains.setdefault(name, {})[metric] = interval
    for name, alone in ranked.items():
        rows[name] |= {"sids": alone.mean_sids, "tokens": alone.mean_tokens}
    return list(rows.values()), gains


def _columns(rank_U: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    found = {f"recall@{k}": recall_at(rank_U, k) for k in CUTOFFS}
    return found | {f"ndcg@{k}": ndcg_at(rank_U, k) for k in CUTOFFS}


def _parser() -> argparse.ArgumentParser:
    parser = quality_parser("stages", __doc__, num_users=0)
    add_budget(parser)
    parser.add_argument(
        "--row",
        action="append",
        required=True,
        metavar="NAME=MANNER:DIR",
        help="a reasoner; repeat the option for each stage",
    )
    return parser
