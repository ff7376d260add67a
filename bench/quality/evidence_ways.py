"""`python -m bench evidence`: thoughts with evidence, beside neither, on held-out users.

    python -m bench evidence --split valid --users 2000 --reasoner NAME=DIR --reader NAME=DIR

A reader has learnt prompts with a line of what others bought, and is asked in four ways: at once or
after thoughts, with or without the line. Other reasoners are asked without it. Every way keeps at
most 32 prefixes a user; equal thoughts find fewer. Beside them stand the most popular prefixes, and
those of the evidence alone and of the online model.
"""

# U = users

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.own_data import load_own_data
from bench.common.results import open_console, open_progress, report
from bench.quality.quality_options import (
    add_budget,
    describe_run,
    draw_cases,
    quality_parser,
    read_settings,
)
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.rank_metrics import bootstrap_named, recall_at
from bench.quality.ranking.row_sets import rank_simple
from bench.quality.ranking.two_tiers import TwoTiers
from bench.quality.thoughts.evidence_cells import NUM_PREFIXES, WAYS, Answer, ask
from bench.quality.thoughts.thought_cache import ThoughtCache
from models.catalog.catalog import popular_prefixes
from models.catalog.sid import Prefix
from models.errors import InvalidInput
from models.night.evidence import Evidence
from models.release.release import Release
from models.release.searchers import load_finisher

_LOGPROB, _PREFIX, _ITEM = "log_p_prefix", "prefix_recall@32", "recall@10"
_NUM = "prefixes"
_COLUMNS = ("name", _LOGPROB, _PREFIX, _ITEM, _NUM)
_ONLINE = "online"
_AT_ONCE, _CITED, _THOUGHT, _BOTH = (way.name for way in WAYS)
_COMPARED = ((_CITED, _AT_ONCE), (_THOUGHT, _AT_ONCE), (_BOTH, _CITED), (_BOTH, _THOUGHT))

Columns = dict[tuple[str, str], NDArray[np.float64]]  # row or difference, metric -> (U,)
PrefixSets = Sequence[Sequence[Prefix]]  # per user, best first


class ReasonerSpec(NamedTuple):
    """One `--reader NAME=DIR` or `--reasoner NAME=DIR`."""

    name: str
    directory: Path
    reads_evidence: bool


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(1)
    specs = [read_spec(text, reads_evidence=False) for text in options.reasoner]
    specs += [read_spec(text, reads_evidence=True) for text in options.reader]
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    cases = [
        case
        for case in draw_cases(options, release, dataset, cites=True)
        if case.target is not None
    ]
    evidence = _load_evidence(release)
    answers: dict[str, list[Answer]] = {}
    for spec in specs:
        answers |= _ask_in_all_ways(console, options, release, spec, cases, evidence)
    chosen: dict[str, PrefixSets] = {
        "popular": [popular_prefixes(release.catalog, NUM_PREFIXES)] * len(cases),
        "evidence alone": [
            [cited.codes for cited in evidence.cite(case.history.rows, most=NUM_PREFIXES)]
            for case in cases
        ],
    }
    chosen |= {name: [one.prefixes for one in found] for name, found in answers.items()}
    columns = _rank(console, release, cases, chosen)
    for name, prefixes in chosen.items():
        columns[name, _NUM] = np.array([float(len(own)) for own in prefixes])
    for name, found in answers.items():
        columns[name, _LOGPROB] = np.array([one.logprob for one in found])
    alone = rank_simple(console, dataset, release.catalog, cases)
    columns |= {(name, _ITEM): recall_at(rank_U, 10) for name, rank_U in alone.items()}
    rows, differences = summarise(columns, [spec.name for spec in specs], seed=options.seed)
    meta = {
        **describe_run("evidence", options, release, cases),
        "settings": read_settings(options).to_json(),
        "reasoners": {spec.name: spec.directory.name for spec in specs},
        "differences": to_json(differences),
    }
    title = f"Thoughts and evidence: {meta['release']} on {options.split}, {len(cases):,} users"
    report(console, options.json, title, meta, rows, (_COLUMNS,))
    print_differences(console, differences)
    return 0


def read_spec(text: str, *, reads_evidence: bool) -> ReasonerSpec:
    """Parse NAME=DIR. Raises InvalidInput for another form or a directory without a model."""
    name, equals, directory = text.partition("=")
    if not (name and equals):
        raise InvalidInput(f"reasoner {text!r}, expected NAME=DIR")
    if not (Path(directory) / "config.json").is_file():
        raise InvalidInput(f"reasoner {text!r}: no config.json there, expected plain weights")
    return ReasonerSpec(name, Path(directory), reads_evidence)


def _load_evidence(release: Release) -> Evidence:
    evidence = Evidence.of(release.catalog, release.load_memory())
    if evidence is None:
        raise InvalidInput(f"{release.directory}: no neighbours, expected a release with a memory")
    return evidence


def _ask_in_all_ways(
    console: Console,
    options: argparse.Namespace,
    release: Release,
    spec: ReasonerSpec,
    cases: Sequence[Case],
    evidence: Evidence,
) -> dict[str, list[Answer]]:
    settings = read_settings(options)
    cache = ThoughtCache.open(options.cache, release, settings, reasoner_dir=spec.directory)
    reasoner = cache.load_reasoner(release.space)
    found = {}
    for way in WAYS:
        if way.has_evidence and not spec.reads_evidence:
            continue
        name = _row_name(spec.name, way.name)
        with open_progress(console, name, len(cases)) as on_progress:
            found[name] = ask(cache, reasoner, release.catalog, cases, way, evidence, on_progress)
    return found


def _rank(
    console: Console, release: Release, cases: Sequence[Case], chosen: Mapping[str, PrefixSets]
) -> Columns:
    """Rank the target through both tiers below each set of prefixes, and in the whole catalog."""
    tiers = TwoTiers(load_finisher(release), release.catalog)
    metrics = [(name, metric) for name in chosen for metric in (_PREFIX, _ITEM)]
    own = [(_ONLINE, metric) for metric in (_PREFIX, _ITEM)]
    columns: Columns = {key: np.zeros(len(cases)) for key in (*metrics, *own)}
    with open_progress(console, "ranking", len(cases)) as on_progress:
        for user, case in enumerate(cases):
            trial = tiers.open(case)
            columns[_ONLINE, _ITEM][user] = trial.online_rank() <= 10
            for name, prefixes in chosen.items():
                tried = trial.attempt(prefixes[user], thought_of=case.history.rows)
                columns[name, _PREFIX][user] = tried.has_target
                columns[name, _ITEM][user] = tried.strict_rank <= 10
                if tried.num_prefixes == NUM_PREFIXES:
                    columns[_ONLINE, _PREFIX][user] = tried.own_has_target
            on_progress(user + 1)
    return columns


def summarise(
    columns: Columns, reasoners: Sequence[str], *, seed: int
) -> tuple[list[dict[str, str | float]], Differences]:
    """Return one row per name, and paired differences: of ways, and of reasoners in each way."""
    compared = [
        (_row_name(name, one), _row_name(name, other))
        for name in reasoners
        for one, other in _COMPARED
    ]
    compared += [
        (_row_name(name, way.name), _row_name(reasoners[0], way.name))
        for name in reasoners[1:]
        for way in WAYS
    ]
    every = dict(columns)
    for one, other in compared:
        for metric in (_LOGPROB, _PREFIX, _ITEM):
            if {(one, metric), (other, metric)} <= set(columns):
                difference_U = columns[one, metric] - columns[other, metric]
                every[f"{one} minus {other}", metric] = difference_U
    rows: dict[str, dict[str, str | float]] = {}
    differences: Differences = {}
    for (name, metric), interval in bootstrap_named(every, seed=seed).items():
        if (name, metric) in columns:
            rows.setdefault(name, {"name": name}).update(interval.columns(metric))
        else:
            differences.setdefault(name, {})[metric] = interval
    return list(rows.values()), differences


def _row_name(reasoner: str, way: str) -> str:
    return f"{reasoner}: {way}"


def _parser() -> argparse.ArgumentParser:
    parser = quality_parser("evidence", __doc__, num_users=2000)
    add_budget(parser)
    for option, meaning in (("--reasoner", "to ask"), ("--reader", "that has learnt evidence")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=DIR",
            help=f"a reasoner {meaning}; may be repeated; differences are to the first --reasoner",
        )
    return parser
