"""Rows of `bench quality` that need no reasoner: not refit, refit, and with shuffled ties.

Not refit: trained without the last two items of each user. Refit: trained once more on everything
but the test item. Knows releases and the console. Knows nothing of thoughts.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.own_data import load_own_data
from bench.common.results import open_progress
from bench.common.ties import split_ties
from bench.quality.learnt import require_refit
from bench.quality.quality_options import draw_cases
from bench.quality.ranking.plain_rows import Ranker, rank_plain
from bench.quality.ranking.quality_rows import REFIT, TIES, Outcome, Table, summarise
from bench.quality.ranking.row_sets import (
    count_trained,
    model_rows,
    night_rows,
    sasrec_row,
    simple_rows,
)
from bench.quality.ranking.target_groups import group_targets
from models.baselines.sasrec import SasRec, load_sasrec
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.errors import InvalidSettings, ReleaseMismatch
from models.release.release import Release

_SASREC = Path(__file__).parents[1] / "sasrec"


@dataclass(frozen=True)
class Inputs:
    """Data and models of a table."""

    options: argparse.Namespace
    dataset: Dataset
    release: Release
    refit: Release | None  # its models have learnt all but the test items
    sasrec: SasRec | None
    sasrec_refit: SasRec | None

    @classmethod
    def load(cls, options: argparse.Namespace) -> "Inputs":
        """Load and check all. Raises InvalidSettings for a refit release or split that is none."""
        release = Release.load(options.release)
        refit = Release.load(options.refit) if options.refit else None
        if options.split != "test" and (options.refit or options.sasrec_refit):
            raise InvalidSettings(f"--refit on the split {options.split!r}, expected 'test'")
        if refit is not None:
            require_refit(refit)
            _check_items(release, refit)
        return cls(
            options,
            load_own_data(options, release),
            release,
            refit,
            _load_sasrec(options.sasrec, release.catalog),
            _load_sasrec(options.sasrec_refit, release.catalog) if options.sasrec_refit else None,
        )


def rank_not_refit(console: Console, inputs: Inputs, cases: Sequence[Case]) -> dict[str, Outcome]:
    """Rank popularity, counts, SASRec and the online model."""
    catalog = inputs.release.catalog
    rankers = simple_rows(inputs.dataset, catalog) | sasrec_row(inputs.sasrec)
    rankers |= model_rows(inputs.release) | night_rows(inputs.release, inputs.dataset)
    return _rank(console, "ranking", rankers, catalog, cases)


def rank_refit(console: Console, inputs: Inputs, cases: Sequence[Case]) -> dict[str, Outcome]:
    """Rank the refit rows of the same users; popularity and counts need no refit release.

    The validation split has none: its target is part of what is refit.
    """
    if inputs.options.split != "test":
        return {}
    catalog = inputs.release.catalog
    rankers = simple_rows(inputs.dataset, catalog, held_out=1) | sasrec_row(inputs.sasrec_refit)
    found = _rank(console, "ranking, refit", rankers, catalog, cases)
    if inputs.refit is not None:
        own_cases = draw_cases(inputs.options, inputs.refit, inputs.dataset)
        rankers = model_rows(inputs.refit) | night_rows(inputs.refit, inputs.dataset, held_out=1)
        found |= _rank(console, "ranking, refit", rankers, inputs.refit.catalog, own_cases)
    return {name + REFIT: outcome for name, outcome in found.items()}


def tie_table(console: Console, inputs: Inputs) -> Table:
    """Return the rows of the models that are not refit, with shuffled ties."""
    options, catalog = inputs.options, inputs.release.catalog
    for_training, for_cases = split_ties(inputs.dataset, options.split, seed=options.ties)
    cases = draw_cases(options, inputs.release, for_cases)
    rankers = simple_rows(for_training, catalog) | sasrec_row(inputs.sasrec)
    rankers |= model_rows(inputs.release) | night_rows(inputs.release, for_training)
    found = _rank(console, "ranking, ties shuffled", rankers, catalog, cases)
    groups = group_targets(cases, count_trained(for_training, catalog))
    named = {name + TIES: outcome for name, outcome in found.items()}
    return summarise(named, groups, seed=options.seed)


def _rank(
    console: Console,
    task: str,
    rankers: Mapping[str, Ranker],
    catalog: Catalog,
    cases: Sequence[Case],
) -> dict[str, Outcome]:
    with open_progress(console, task, len(cases)) as on_progress:
        return rank_plain(rankers, catalog, cases, on_progress=on_progress)


def _check_items(release: Release, refit: Release) -> None:
    if set(release.catalog.item_ids) != set(refit.catalog.item_ids):
        raise ReleaseMismatch(
            f"{refit.directory}: {len(refit.catalog)} items, expected the "
            f"{len(release.catalog)} of {release.directory}"
        )


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
