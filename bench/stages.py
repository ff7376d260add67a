"""`python -m bench stages`: what each stage of training is worth (Table 2 of the paper).

    python -m bench stages --row base=preference:W0/integrate --row ia=preference:W1/integrate \\
        --row r=think:W1/activate --row rl=think:W1/enhance

A row is a reasoner by itself, from a directory of plain weights over the release's SIDs: asked with
a thought, with an empty one, or as in alignment; always T x m SIDs at most to rank.
"""

import argparse
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.alone import Alone, rank_alone
from bench.at_once import Manner
from bench.evaluation import CUTOFFS, METRICS
from bench.histories import cut_histories
from bench.metrics import Interval, bootstrap, ndcg_at, recall_at
from bench.quality import open_progress, signed, think_cases
from bench.report import open_console, print_table, write_json, write_markdown
from bench.thoughts import ThoughtCache, ThoughtSettings, without_thought
from models.dataset import load_dataset
from models.errors import InvalidInput
from models.release import Release

_MEASURED = (*METRICS, "prefix_recall")
_COLUMNS = ("name", *METRICS, "prefix_recall", "sids", "tokens")


class RowSpec(NamedTuple):
    """name=manner:directory."""

    name: str
    manner: Manner
    directory: Path


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    specs = [read_spec(text) for text in options.row]
    release = Release.load(options.release)
    cases = cut_histories(
        load_dataset(options.data),
        release.catalog,
        split=options.split,
        num_users=options.users,
        seed=options.seed,
    )
    settings = ThoughtSettings(paths=options.paths, width=options.width, seed=options.seed)
    ranked: dict[str, Alone] = {}
    for spec in specs:
        asked = settings
        if spec.manner is not Manner.THINK:
            asked = without_thought(settings, spec.manner)
        cache = ThoughtCache.open(options.cache, release, asked, reasoner_dir=spec.directory)
        console.print(f"{spec.name}: {spec.directory} ({spec.manner})")
        thoughts = think_cases(console, cache, cases, workers=options.workers)
        with open_progress(console, "ranking", len(cases)) as on_progress:
            found = rank_alone(release.catalog, cases, thoughts.users, on_progress=on_progress)
        ranked[spec.name] = found
    rows, gains = summarise(ranked, seed=options.seed)
    meta = {
        "command": "stages",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "split": options.split,
        "users": len(cases),
        "settings": settings.to_json(),
        "reasoners": {spec.name: f"{spec.manner}:{spec.directory.name}" for spec in specs},
        "gain_over_the_row_before": {
            name: {metric: interval._asdict() for metric, interval in found.items()}
            for name, found in gains.items()
        },
    }
    print_table(console, f"reasoners alone, {len(cases):,} users", rows, _COLUMNS)
    for name, differences in gains.items():
        said = (f"{metric} {signed(interval)}" for metric, interval in differences.items())
        console.print(f"{name}: {', '.join(said)}")
    if options.json:
        write_json(options.json, meta, rows)
        title = "What each stage is worth"
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def read_spec(text: str) -> RowSpec:
    """Raises InvalidInput for a row of another form, or a directory without a model."""
    name, equals, rest = text.partition("=")
    manner, colon, directory = rest.partition(":")
    if not (name and equals and colon and manner in set(Manner)):
        known = "|".join(Manner)
        raise InvalidInput(f"--row {text!r}, expected NAME=MANNER:DIR with MANNER {known}")
    if not (Path(directory) / "config.json").is_file():
        raise InvalidInput(f"--row {text!r}: no config.json there, expected plain weights")
    return RowSpec(name, Manner(manner), Path(directory))


def summarise(
    ranked: dict[str, Alone], *, seed: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Interval]]]:
    """A row a reasoner, and what each gains over the row before, paired by user."""
    columns = {
        (name, metric): values
        for name, alone in ranked.items()
        for metric, values in _columns(alone).items()
    }
    names = list(ranked)
    pairs = {
        (f"{after} minus {before}", metric): columns[after, metric] - columns[before, metric]
        for before, after in pairwise(names)
        for metric in _MEASURED
    }
    values = np.stack([*columns.values(), *pairs.values()], axis=1)
    intervals = dict(zip([*columns, *pairs], bootstrap(values, seed=seed), strict=True))
    rows = []
    for name, alone in ranked.items():
        row: dict[str, Any] = {"name": name}
        for metric in _MEASURED:
            mean, low, high = intervals[name, metric]
            row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row | {"sids": alone.mean_sids, "tokens": alone.mean_tokens})
    gains: dict[str, dict[str, Interval]] = {}
    for name, metric in pairs:
        gains.setdefault(name, {})[metric] = intervals[name, metric]
    return rows, gains


def _columns(alone: Alone) -> dict[str, NDArray[np.float64]]:
    found = {f"recall@{k}": recall_at(alone.rank_U, k) for k in CUTOFFS}
    found |= {f"ndcg@{k}": ndcg_at(alone.rank_U, k) for k in CUTOFFS}
    return found | {"prefix_recall": alone.has_prefix_U.astype(np.float64)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench stages", allow_abbrev=False)
    add = parser.add_argument
    add("--row", action="append", required=True, metavar="NAME=MANNER:DIR", help="once a stage")
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR", help="whose SIDs")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--split", choices=("test", "valid"), default="test")
    add("--users", type=int, metavar="N", help="a seeded sample; default: everybody")
    add("--paths", type=int, default=ThoughtSettings.paths, metavar="T")
    add("--width", type=int, default=ThoughtSettings.width, metavar="M", help="beams a path")
    add("--seed", type=int, default=0, metavar="S")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--cache", type=Path, default=Path(".state/bench"), metavar="DIR", help="kept thoughts")
    add("--json", type=Path, metavar="FILE")
    return parser
