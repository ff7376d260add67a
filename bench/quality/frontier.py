"""`python -m bench frontier`: quality and cost of T thoughts and m beams per thought.

One night with the largest T yields the results of all T. Each path is searched at every width.
Popularity, counts and as many prefixes made without a thought stand beside every cell.
"""

# U = users

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import process_time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.leave_one_out import Case
from bench.common.own_data import load_own_data
from bench.common.results import open_console, open_progress, report
from bench.quality.plots import plot_frontier
from bench.quality.quality_options import describe_run, draw_cases, placed, quality_parser
from bench.quality.ranking.quality_rows import ONLINE
from bench.quality.ranking.row_sets import rank_simple
from bench.quality.ranking.two_tiers import (
    PREFIX_COLUMNS,
    RANK_COLUMNS,
    SILENT,
    Tried,
    TwoTiers,
    compare,
)
from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.path_beams import is_head_of_wider, prefixes_of
from bench.quality.thoughts.think_cases import plan_chunks, think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts, ThoughtSettings, without_thought
from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from models.reasoner.think import UserHistory, think_users, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from models.release.searchers import load_finisher

_COST_COLUMNS = ("name", "prefixes", "tokens", "cpu_ms", "head_of_widest")


class Cell(NamedTuple):
    """One point of the grid."""

    paths: int  # T
    width: int  # m, beams per path

    @property
    def name(self) -> str:
        return f"T={self.paths} m={self.width}"


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = open_console()
    torch.set_num_threads(1)
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    cases = draw_cases(options, release, dataset)
    cells = [Cell(paths, width) for paths in options.paths for width in options.widths]
    settings = ThoughtSettings(
        paths=max(options.paths),
        width=max(options.widths),
        seed=options.seed,
        widths=tuple(options.widths),
    )
    settings = placed(options, settings)
    cache = ThoughtCache.open(options.cache, release, settings)
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    silent = without_thought(replace(settings, widths=()), Manner.SILENT)
    silent_cache = ThoughtCache.open(options.cache, release, silent)
    at_once = think_cases(console, silent_cache, cases, workers=options.workers)
    alone = rank_simple(console, dataset, release.catalog, cases)
    tiers = TwoTiers(load_finisher(release), release.catalog)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        tried, alone[ONLINE] = try_cells(
            tiers, cases, thoughts, at_once, cells, settings, on_progress
        )
    sample = sample_chunks(cases, num_chunks=options.cost_chunks)
    reasoner = cache.load_reasoner(release.space)
    with open_progress(console, "timing", len(cells) * len(sample)) as on_progress:
        costs = measure_cost(reasoner, release.catalog, sample, cells, settings, on_progress)
    rows = describe(cells, tried, alone, thoughts.users, costs, seed=options.seed)
    meta = {
        **describe_run("frontier", options, release, cases),
        "settings": settings.to_json(),
        "closed_paths": _closed_share(thoughts.users),
        "cpu_ms": f"thinking, a user, one thread, CPU time, {sum(map(len, sample))} users a cell",
    }
    title = f"T x m: {meta['release']} on {options.split}, {len(cases):,} users, 95% intervals"
    groups = (PREFIX_COLUMNS, RANK_COLUMNS, _COST_COLUMNS)
    report(console, options.json, title, meta, rows, groups)
    if options.json:
        plot_frontier(options.json.with_suffix(".png"), rows, title=title)
    return 0


def try_cells(
    tiers: TwoTiers,
    cases: Sequence[Case],
    thoughts: Thoughts,
    at_once: Thoughts,
    cells: Sequence[Cell],
    settings: ThoughtSettings,
    on_progress: Callable[[int], None],
) -> tuple[dict[str, list[Tried]], NDArray[np.float64]]:
    """Try every cell's C_u on every user; also return ranks of the online tier alone, (U,).

    Args:
        at_once: of the same reasoner without thoughts; each cell gets as many of its prefixes.
    """
    tried: dict[str, list[Tried]] = {
        name: [] for cell in cells for name in (cell.name, cell.name + SILENT)
    }
    online = []
    users = zip(cases, thoughts.users, at_once.users, strict=True)
    for at, (case, user, silent) in enumerate(users):
        trial = tiers.open(case)
        online.append(trial.online_rank())
        for cell in cells:
            prefixes = prefixes_of(
                user.paths,
                paths=cell.paths,
                width=cell.width,
                max_prefixes=settings.max_prefixes,
            )
            for name, c_u in (
                (cell.name, prefixes),
                (cell.name + SILENT, silent.prefixes[: len(prefixes)]),
            ):
                tried[name].append(trial.attempt(c_u, thought_of=case.history.rows))
        on_progress(at + 1)
    return tried, np.array(online)


def sample_chunks(cases: Sequence[Case], *, num_chunks: int) -> list[list[UserHistory]]:
    """Return micro-batches spaced evenly from the shortest histories to the longest."""
    chunks = plan_chunks([case.history for case in cases if case.history.rows])
    ordered = sorted(chunks, key=lambda chunk: len(chunk[-1].rows))
    at = np.linspace(0, len(ordered) - 1, min(num_chunks, len(ordered))).round().astype(int)
    return [ordered[index] for index in at]


def measure_cost(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    chunks: Sequence[Sequence[UserHistory]],
    cells: Sequence[Cell],
    settings: ThoughtSettings,
    on_progress: Callable[[int], None],
) -> dict[Cell, float]:
    """Return CPU milliseconds per user for every cell, on one thread, by the night's own code.

    Cells take turns on each chunk, so that other load on the machine disturbs all of them equally.
    """
    spent = dict.fromkeys(cells, 0.0)
    for done, (cell, chunk) in enumerate(_turns(cells, chunks)):
        seeds = [user_seed(settings.seed, user.user_id) for user in chunk]
        started = process_time()
        think_users(
            reasoner, catalog, chunk, paths=cell.paths, width=cell.width, seeds=seeds,
            max_prefixes=settings.max_prefixes,
        )  # fmt: skip
        spent[cell] += process_time() - started
        on_progress(done + 1)
    num_users = sum(map(len, chunks))
    return {cell: 1000 * seconds / num_users for cell, seconds in spent.items()}


def _turns(
    cells: Sequence[Cell], chunks: Sequence[Sequence[UserHistory]]
) -> Iterator[tuple[Cell, Sequence[UserHistory]]]:
    return ((cell, chunk) for chunk in chunks for cell in cells)


def describe(
    cells: Sequence[Cell],
    tried: Mapping[str, Sequence[Tried]],
    alone: Mapping[str, NDArray[np.float64]],
    users: Sequence[CaseThoughts],
    costs: Mapping[Cell, float],
    *,
    seed: int,
) -> list[dict[str, str | int | float]]:
    """Return the rows of models alone, then two rows per cell: with thoughts and without.

    `head_of_widest` is a share of the closed paths: those with m beams equal to the first m of the
    widest search.
    """
    rows = compare(tried, alone, seed=seed)
    for name, of_users in tried.items():
        rows[name]["prefixes"] = float(np.mean([one.num_prefixes for one in of_users]))
    widest = max(cell.width for cell in cells)
    for cell in cells:
        heads = [
            is_head_of_wider(path, width=cell.width, wider=widest)
            for user in users
            for path in user.paths[: cell.paths]
            if path.text is not None
        ]
        rows[cell.name] |= {
            "paths": cell.paths,
            "width": cell.width,
            "tokens": float(np.mean([_tokens(user, cell.paths) for user in users])),
            "cpu_ms": costs[cell],
            "head_of_widest": sum(heads) / max(1, len(heads)),
        }
    return list(rows.values())


def _tokens(user: CaseThoughts, paths: int) -> int:
    return sum(path.tokens for path in user.paths[:paths])


def _closed_share(users: Sequence[CaseThoughts]) -> float:
    num_paths = sum(len(user.paths) for user in users)
    return sum(len(user.texts) for user in users) / max(1, num_paths)


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = quality_parser("frontier", __doc__, num_users=2000)
    add = parser.add_argument
    add(
        "--paths",
        type=int,
        nargs="+",
        default=[1, 2, 3, 5, 8],
        metavar="T",
        help="(default: %(default)s)",
    )
    add(
        "--widths",
        type=int,
        nargs="+",
        default=[2, 5, 10, 20],
        metavar="M",
        help="(default: %(default)s)",
    )
    add(
        "--cost-chunks",
        type=int,
        default=6,
        metavar="N",
        help="micro-batches for the timing of each cell",
    )
    options = parser.parse_args(arguments)
    if min(*options.paths, *options.widths, options.cost_chunks) < 1:
        raise InvalidSettings("--paths, --widths and --cost-chunks: expected 1 or more")
    options.paths, options.widths = sorted(set(options.paths)), sorted(set(options.widths))
    return options
