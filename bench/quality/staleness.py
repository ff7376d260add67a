"""`python -m bench staleness`: quality of a C_u that was made some interactions ago.

The reasoner reads the history without its last items, and the online tier reads all of it, as
between two nights. All ages are measured on the same users. Popularity, counts and as many prefixes
made without a thought stand beside them.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.leave_one_out import Case, cut_histories
from bench.common.own_data import load_own_data
from bench.common.results import open_console, open_progress, report
from bench.quality.learnt import refuse_learnt, refuse_reader
from bench.quality.plots import plot_staleness
from bench.quality.quality_options import add_budget, describe_run, placed, quality_parser
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
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, ThoughtSettings, without_thought
from models.errors import InvalidDataset, InvalidSettings
from models.reasoner.think import MAX_HISTORY, UserHistory
from models.release.release import Release
from models.release.searchers import load_finisher

_CHANGE_COLUMNS = (
    "name",
    "prefix_recall_change",
    "strict@10_change",
    "union@10_change",
    "prefixes",
)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = open_console()
    torch.set_num_threads(1)
    release = Release.load(options.release)
    refuse_learnt(release, options.split)
    refuse_reader(release)
    dataset = load_own_data(options, release)
    everybody = cut_histories(dataset, release.catalog, split=options.split, seed=options.seed)
    eligible = [case for case in everybody if len(case.seen) > options.outlast]
    cases = eligible[: options.users or None]
    if not cases:
        raise InvalidDataset(f"{options.data}: no history outlasts {options.outlast} items")
    settings = ThoughtSettings(
        paths=options.paths, width=options.width, seed=options.seed, widths=(options.width,)
    )
    settings = placed(options, settings)
    cache = ThoughtCache.open(options.cache, release, settings)
    silent = without_thought(replace(settings, widths=()), Manner.SILENT)
    silent_cache = ThoughtCache.open(options.cache, release, silent)
    thoughts, at_once = {}, {}
    for age in options.ages:
        console.print(f"C_u made {age} interactions ago")
        aged = [age_case(case, age) for case in cases]
        thoughts[age] = think_cases(console, cache, aged, workers=options.workers).users
        at_once[age] = think_cases(console, silent_cache, aged, workers=options.workers).users
    alone = rank_simple(console, dataset, release.catalog, cases)
    tiers = TwoTiers(load_finisher(release), release.catalog)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        tried, alone[ONLINE] = try_ages(tiers, cases, thoughts, at_once, on_progress)
    rows = describe(tried, alone, ages=options.ages, seed=options.seed)
    meta = {
        **describe_run("staleness", options, release, cases),
        "users_with_enough_history": len(eligible),
        "settings": settings.to_json(),
    }
    title = (
        f"age of C_u in interactions: {meta['release']} on {options.split}, {len(cases):,} users "
        f"with more than {options.outlast} items, 95% intervals"
    )
    groups = (PREFIX_COLUMNS, RANK_COLUMNS, _CHANGE_COLUMNS)
    report(console, options.json, title, meta, rows, groups)
    if options.json:
        plot_staleness(options.json.with_suffix(".png"), rows, title=title)
    return 0


def age_case(case: Case, age: int) -> Case:
    """Return the case without its last `age` items, as an earlier night read it."""
    seen = case.seen[: len(case.seen) - age]
    return Case(UserHistory(case.history.user_id, seen[-MAX_HISTORY:]), seen, case.target)


def try_ages(
    tiers: TwoTiers,
    cases: Sequence[Case],
    thoughts: Mapping[int, Sequence[CaseThoughts]],
    at_once: Mapping[int, Sequence[CaseThoughts]],
    on_progress: Callable[[int], None],
) -> tuple[dict[str, list[Tried]], NDArray[np.float64]]:
    """Try every age's C_u on every user; also return ranks of the online tier alone, (U,).

    Args:
        at_once: of the same reasoner without thoughts; each age gets as many of its prefixes.
    """
    tried: dict[str, list[Tried]] = {
        name: [] for age in thoughts for name in (_name(age), _name(age) + SILENT)
    }
    online = []
    for at, case in enumerate(cases):
        trial = tiers.open(case)
        online.append(trial.online_rank())
        for age, users in thoughts.items():
            thought_of = age_case(case, age).history.rows
            prefixes = users[at].prefixes
            silent = at_once[age][at].prefixes[: len(prefixes)]
            tried[_name(age)].append(trial.attempt(prefixes, thought_of=thought_of))
            tried[_name(age) + SILENT].append(trial.attempt(silent, thought_of=thought_of))
        on_progress(at + 1)
    return tried, np.array(online)


def describe(
    tried: Mapping[str, Sequence[Tried]],
    alone: Mapping[str, NDArray[np.float64]],
    *,
    ages: Sequence[int],
    seed: int,
) -> list[dict[str, str | int | float]]:
    """Return the rows of models alone, then two rows per age: with thoughts and without.

    Changes are from the youngest thoughts.
    """
    rows = compare(tried, alone, seed=seed, base=_name(min(ages)))
    for name, of_users in tried.items():
        rows[name]["prefixes"] = float(np.mean([one.num_prefixes for one in of_users]))
    for age in ages:
        rows[_name(age)]["age"] = age
    return list(rows.values())


def _name(age: int) -> str:
    return f"{age} ago"


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = quality_parser("staleness", __doc__, num_users=2000)
    add = parser.add_argument
    add(
        "--ages",
        type=int,
        nargs="+",
        default=[0, 1, 2, 4, 8],
        metavar="N",
        help="ages of C_u, in interactions",
    )
    add_budget(parser)
    add(
        "--outlast",
        type=int,
        default=0,
        metavar="N",
        help="use only users with more than N items (at least the largest age)",
    )
    options = parser.parse_args(arguments)
    if min(options.ages) < 0 or min(options.paths, options.width) < 1:
        raise InvalidSettings("expected --ages of 0 or more, --paths and --width of 1 or more")
    options.ages = sorted(set(options.ages))
    options.outlast = max(options.outlast, *options.ages)
    return options
