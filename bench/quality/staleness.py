"""`python -m bench staleness`: quality of a C_u that was made some interactions ago.

The reasoner reads the history without its last items, and the online tier reads all of it, as
between two nights. All ages are measured on the same users.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.leave_one_out import Case, cut_histories
from bench.common.results import open_console, open_progress, report
from bench.quality.learnt import refuse_learnt
from bench.quality.plots import plot_staleness
from bench.quality.quality_options import add_budget, describe_run, quality_parser
from bench.quality.ranking.two_tiers import PREFIX_COLUMNS, RANK_COLUMNS, Tried, TwoTiers, compare
from bench.quality.thoughts.think_cases import think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, ThoughtSettings
from models.catalog.dataset import load_dataset
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
    everybody = cut_histories(
        load_dataset(options.data), release.catalog, split=options.split, seed=options.seed
    )
    eligible = [case for case in everybody if len(case.seen) > options.outlast]
    cases = eligible[: options.users or None]
    if not cases:
        raise InvalidDataset(f"{options.data}: no history outlasts {options.outlast} items")
    settings = ThoughtSettings(
        paths=options.paths, width=options.width, seed=options.seed, widths=(options.width,)
    )
    cache = ThoughtCache.open(options.cache, release, settings)
    thoughts = {}
    for age in options.ages:
        console.print(f"C_u made {age} interactions ago")
        aged = [age_case(case, age) for case in cases]
        thoughts[age] = think_cases(console, cache, aged, workers=options.workers).users
    tiers = TwoTiers(load_finisher(release), release.catalog)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        tried, online_U = try_ages(tiers, cases, thoughts, settings, on_progress)
    rows = describe(tried, online_U, seed=options.seed)
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
    settings: ThoughtSettings,
    on_progress: Callable[[int], None],
) -> tuple[dict[int, list[Tried]], NDArray[np.float64]]:
    """Try every age's C_u on every user; also return ranks of the online tier alone, (U,)."""
    tried: dict[int, list[Tried]] = {age: [] for age in thoughts}
    online = []
    for at, case in enumerate(cases):
        trial = tiers.open(case)
        online.append(trial.online_rank())
        for age, users in thoughts.items():
            thought_of = age_case(case, age).history.rows
            tried[age].append(trial.attempt(users[at].prefixes, thought_of=thought_of))
        on_progress(at + 1)
    return tried, np.array(online)


def describe(
    tried: Mapping[int, Sequence[Tried]], online_U: NDArray[np.float64], *, seed: int
) -> list[dict[str, str | int | float]]:
    """Return the row of the online tier, then one row per age; changes are from the youngest."""
    named = {f"{age} ago": of_users for age, of_users in tried.items()}
    rows = compare(named, online_U, seed=seed, base=f"{min(tried)} ago")
    for age, of_users in tried.items():
        prefixes = float(np.mean([one.num_prefixes for one in of_users]))
        rows[f"{age} ago"] |= {"age": age, "prefixes": prefixes}
    return list(rows.values())


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
