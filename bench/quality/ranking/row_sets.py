"""Sets of plain rows: popularity and counts stand in each, whether asked for or not.

Knows releases and data sets. Knows nothing of thoughts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.common.leave_one_out import Case, learnt_histories
from bench.common.results import open_progress
from bench.quality.ranking.counts_row import CountsRow, all_neighbours
from bench.quality.ranking.plain_rows import (
    FusedRow,
    NightItemsRow,
    OnlineRow,
    PopularityRow,
    Ranker,
    SasRecRow,
    rank_plain,
)
from bench.quality.ranking.quality_rows import (
    COUNTS,
    FUSED_BEFORE,
    FUSED_SILENT,
    MEMORY,
    NIGHT_ITEMS,
    ONLINE,
    ONLINE_NO_MEMORY,
    POPULARITY,
    SASREC,
)
from models.baselines.sasrec import SasRec
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset
from models.night.night_items import NightItems
from models.night.ridge import fit_night_items
from models.online.finish import Finisher
from models.release.release import Release
from models.release.searchers import load_finisher, load_searcher

Rankers = dict[str, Ranker]


def simple_rows(dataset: Dataset, catalog: Catalog, *, held_out: int = 2) -> Rankers:
    """Return popularity and counts of all but the last `held_out` items of each user."""
    histories = learnt_histories(dataset, catalog, held_out=held_out)
    popularity_N = count_trained(dataset, catalog, held_out=held_out)
    return {
        POPULARITY: PopularityRow(popularity_N),
        COUNTS: CountsRow(all_neighbours(histories, len(catalog)), popularity_N),
    }


def rank_simple(
    console: Console, dataset: Dataset, catalog: Catalog, cases: Sequence[Case]
) -> dict[str, NDArray[np.float64]]:
    """Return the ranks by popularity and by counts, (U,) each."""
    with open_progress(console, "popularity, counts", len(cases)) as on_progress:
        found = rank_plain(simple_rows(dataset, catalog), catalog, cases, on_progress=on_progress)
    return {name: outcome.rank_U for name, outcome in found.items()}


def sasrec_row(sasrec: SasRec | None) -> Rankers:
    return {SASREC: SasRecRow(sasrec)} if sasrec is not None else {}


def model_rows(release: Release) -> Rankers:
    """Return the online model, as served, without its memory, and its memory alone."""
    plain = OnlineRow(Finisher(load_searcher(release), release.catalog), release.catalog)
    if (neighbours := release.load_neighbours()) is None:
        return {ONLINE_NO_MEMORY: plain, ONLINE: plain}
    return {
        MEMORY: CountsRow(neighbours, release.catalog.popularity),
        ONLINE_NO_MEMORY: plain,
        ONLINE: OnlineRow(load_finisher(release), release.catalog),
    }


def night_rows(release: Release, dataset: Dataset, *, held_out: int = 2) -> Rankers:
    """Return the night's model of items alone and beside the online model.

    It learns all but the last `held_out` items of each user. Empty for a release without a memory.
    """
    finisher, catalog = load_finisher(release), release.catalog
    if not finisher.takes_nights:
        return {}
    night = learn_night(release, dataset, held_out=held_out)
    popularity_N = count_trained(dataset, catalog, held_out=held_out)
    return {
        NIGHT_ITEMS: NightItemsRow(night, popularity_N),
        FUSED_SILENT: FusedRow(finisher, night, is_day_before=False),
        FUSED_BEFORE: FusedRow(finisher, night, is_day_before=True),
    }


def learn_night(release: Release, dataset: Dataset, *, held_out: int = 2) -> NightItems:
    """Fit a night's model of items to all but the last `held_out` items of each user."""
    histories = learnt_histories(dataset, release.catalog, held_out=held_out)
    return fit_night_items(histories, release.catalog)


def count_trained(dataset: Dataset, catalog: Catalog, *, held_out: int = 2) -> NDArray[np.int64]:
    """Return how often each item may be trained on, (N,)."""
    histories = learnt_histories(dataset, catalog, held_out=held_out)
    rows = np.array([row for history in histories for row in history], dtype=np.int64)
    return np.bincount(rows, minlength=len(catalog))
