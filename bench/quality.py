"""`python -m bench quality`: from a release and a data folder to the quality table.

Loads, thinks (or reads the thoughts of an earlier run), evaluates, prints and writes.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.at_once import Manner
from bench.evaluation import Evaluation, Table
from bench.histories import Case, cut_histories
from bench.metrics import Interval
from bench.report import open_console, print_table, write_json
from bench.thoughts import (
    CaseThoughts,
    ThoughtCache,
    Thoughts,
    ThoughtSettings,
    collect_thoughts,
    without_thought,
)
from models.catalog import Catalog
from models.dataset import load_dataset
from models.errors import InvalidDataset, ReleaseMismatch
from models.finish import Finisher
from models.prompts import ground
from models.release import Release
from models.sasrec import SasRec, load_sasrec

_SASREC = Path(__file__).parent / "sasrec"
_COLUMNS = ("name", "recall@5", "recall@10", "ndcg@5", "ndcg@10")
_PREFIX_COLUMNS = ("name", "prefix_recall", "prefixes", "fan_out", "seconds")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    cases = cut_histories(
        load_dataset(options.data),
        release.catalog,
        split=options.split,
        num_users=options.users,
        seed=options.seed,
    )
    if not cases:
        raise InvalidDataset(f"{options.data}: no user of three items or more, expected some")
    sasrec = _load_sasrec(options.sasrec, release.catalog)
    settings = ThoughtSettings(paths=options.paths, width=options.width, seed=options.seed)
    cache = ThoughtCache.open(options.cache, release, settings)
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    silent = without_thought(settings, Manner(options.at_once))
    at_once_cache = ThoughtCache.open(options.cache, release, silent)
    at_once = think_cases(console, at_once_cache, cases, workers=options.workers)
    finisher = Finisher(release.load_searcher(), release.catalog)
    evaluation = Evaluation(finisher, release.catalog, cases, thoughts, sasrec, at_once)
    with open_progress(console, "ranking", len(cases)) as on_progress:
        table = evaluation.run(seed=options.seed, on_progress=on_progress)
    meta = {
        "command": "quality",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "split": options.split,
        "users": len(cases),
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
    """The bundled one where none is named, and none where that is of another catalog."""
    try:
        return load_sasrec((folder or _SASREC) / "model.safetensors", catalog.item_ids)
    except ReleaseMismatch:
        if folder is None:
            return None
        raise


def think_cases(
    console: Console, cache: ThoughtCache, cases: Sequence[Case], *, workers: int
) -> Thoughts:
    """A user whose whole history is unknown to the catalog has nothing to think about."""
    users = [case.history for case in cases if case.history.rows]
    with open_progress(console, "thinking", len(users)) as on_progress:
        found = collect_thoughts(cache, users, workers=workers, on_progress=on_progress)
    by_user = {user.user_id: user for user in found.users}
    everybody = [
        by_user.get(case.history.user_id, CaseThoughts.nothing(case.history.user_id))
        for case in cases
    ]
    return Thoughts(everybody, found.seconds)


def describe_thoughts(thoughts: Thoughts) -> dict[str, float]:
    """Totals of a night: closed and dropped paths, tokens, seconds over all workers."""
    return {
        "paths": sum(len(user.texts) for user in thoughts.users),
        "dropped_paths": sum(user.dropped_paths for user in thoughts.users),
        "tokens": sum(user.tokens for user in thoughts.users),
        "seconds": thoughts.seconds,
    }


def describe_grounding(
    catalog: Catalog, cases: Sequence[Case], thoughts: Thoughts
) -> dict[str, float]:
    """Shares of thoughts that name a topic of the history, and of named topics that are in it."""
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
        "prefix_recall_strict_minus": {
            name: _as_json(interval) for name, interval in table.prefix_recall_gain.items()
        },
        "own_prefix_recall": _as_json(table.own_prefix_recall),
        "differences": {
            name: {metric: _as_json(interval) for metric, interval in metrics.items()}
            for name, metrics in table.differences.items()
        },
    }


def _as_json(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def _print(console: Console, table: Table, meta: dict[str, Any]) -> None:
    title = f"{meta['release']} on {meta['split']}, {meta['users']:,} users, 95% intervals"
    print_table(console, title, table.rows, _COLUMNS)
    print_table(console, "prefixes to choose from", table.rows, _PREFIX_COLUMNS)
    for name, interval in table.prefix_recall_gain.items():
        console.print(f"prefix recall, strict minus {name}: {signed(interval)}")
    for name, metrics in table.differences.items():
        said = (f"{metric} {signed(interval)}" for metric, interval in metrics.items())
        console.print(f"{name}: {', '.join(said)}")
    for what, share in meta["grounding"].items():
        console.print(f"{what.replace('_', ' ')}: {share:.1%}")


def signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


@contextmanager
def open_progress(console: Console, task: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        number = progress.add_task(task, total=total)
        yield lambda done: progress.update(number, completed=done)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench quality", allow_abbrev=False)
    add = parser.add_argument
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--split", choices=("test", "valid"), default="test")
    add("--users", type=int, metavar="N", help="a seeded sample; default: everybody")
    add("--paths", type=int, default=ThoughtSettings.paths, metavar="T")
    add("--width", type=int, default=ThoughtSettings.width, metavar="M", help="beams a path")
    add(
        "--at-once",
        choices=(Manner.SILENT.value, Manner.PREFERENCE.value),
        default=Manner.SILENT.value,
        help="how the reasoner is asked without a thought",
    )
    add("--seed", type=int, default=0, metavar="S")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--sasrec", type=Path, metavar="DIR", help="default: bench/sasrec, if of this catalog")
    add("--cache", type=Path, default=Path(".state/bench"), metavar="DIR", help="kept thoughts")
    add("--json", type=Path, metavar="FILE")
    return parser
