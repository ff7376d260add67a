"""`python -m bench reasoner-days`: next days predicted by reasoners that learn day by day.

`python -m training reason-day` leaves a release a day. Each event is judged by the first reasoner
(`frozen`) and by the newest one that has not learnt its day (`daily`). Rows that are too simple
have as many prefixes as `daily` finds: popular ones, and those of counts that learn every day.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from bench.common.command_line import add_data, add_json, add_release, add_seed, make_parser
from bench.common.results import open_console, open_progress, print_table, write_json
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.rank_metrics import bootstrap_clusters
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, load_dataset
from models.catalog.held_out import has_targets
from models.errors import InvalidDataset, InvalidRelease
from models.online.memory.live_counts import LiveCounts
from models.online.memory.memory_settings import MemorySettings
from models.reasoner.next_items import Judged, NextItem, judge_next_items
from models.reasoner.placement import place
from models.reasoner.think import MAX_HISTORY, UserHistory
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release

_DAY_MS = 24 * 3600 * 1000
_POPULAR_DAYS = 7
_SMOOTHING = 100.0  # events by the popularity of all time, beside those of the last days
_COMPARED = (
    ("daily", "frozen"),
    ("daily", "popularity"),
    ("daily", "popularity_recent"),
    ("daily", "counts"),
)
_METRICS = ("prefix_recall", "prefix_logprob", "item_logprob")
Columns = dict[tuple[str, str], NDArray[np.float64]]


class Asked(NamedTuple):
    """The events of one day that are new for users with a history."""

    day: int  # days since 1970
    questions: list[NextItem]  # the history is that of all days before


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = open_console()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    dataset, release = load_dataset(options.data), Release.load(options.release)
    if not dataset.has_times:
        raise InvalidDataset(f"{options.data}: no column timestamp, expected one")
    learnt = {learnt_day(found): found for found in map(Release.load, options.learnt)}
    asked = ask_days(
        dataset,
        release.catalog,
        options.from_day,
        options.to_day,
        is_held_out=options.held_out,
    )
    if not asked:
        raise InvalidDataset(f"{options.data}: no event on these days, expected some")
    judged: dict[str, list[Judged]] = {"frozen": [], "daily": []}
    with open_progress(console, "days", len(asked)) as on_progress:
        for num_done, (day, questions) in enumerate(asked, start=1):
            before = [known for known in learnt if known < day]
            newest = learnt[max(before)] if before else release
            for name, judge in (("frozen", release), ("daily", newest)):
                judged[name] += _judge(judge, questions, options)
            on_progress(num_done)
    columns = _reasoner_columns(judged)
    columns |= simple_columns(dataset, release, asked, judged["daily"])
    rows, differences = _summarise(columns, asked, seed=options.seed)
    meta = {
        "command": "reasoner-days",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "days": len(asked),
        "events": sum(len(each.questions) for each in asked),
        "reasoners": len(learnt),
        "held_out": options.held_out,
        "paths": options.paths,
        "width": options.width,
        "prefixes": round(float(np.mean([one.num_prefixes for one in judged["daily"]])), 2),
        "differences": to_json(differences),
    }
    title = f"{options.data}, {meta['events']:,} events of {len(asked)} days, 95% intervals"
    print_table(console, title, rows, ("name", *_METRICS))
    print_differences(console, differences)
    if options.json:
        write_json(options.json, meta, rows)
    return 0


def learnt_day(release: Release) -> int:
    """Return the day of the last event that a release's reasoner has learnt."""
    until = release.manifest.recipe.get("reasoner_day", {}).get("until")
    if until is None:
        raise InvalidRelease(f"{release.directory}: its reasoner learnt no day, expected one")
    return int(until.partition("-")[0]) // _DAY_MS


def ask_days(
    dataset: Dataset, catalog: Catalog, first_day: int, last_day: int, *, is_held_out: bool
) -> list[Asked]:
    """Return the questions of the days between two, by day and user.

    is_held_out: ask for the last two items of each user alone.
    """
    found: dict[int, list[NextItem]] = defaultdict(list)
    for user_id in sorted(dataset.histories):
        history: list[int] = []
        items = [event.item_id for event in dataset.histories[user_id]]
        if is_held_out:
            items = items[-2:] if has_targets(items) else []
        targets = set(catalog.rows(items))
        for day, rows in _days_of(dataset, catalog, user_id):
            if history and first_day <= day <= last_day:
                user = UserHistory(user_id, tuple(history[-MAX_HISTORY:]))
                found[day] += [
                    NextItem(user, row) for row in rows if row in targets and row not in history
                ]
            history += rows
    return [Asked(day, found[day]) for day in sorted(found) if found[day]]


def _days_of(dataset: Dataset, catalog: Catalog, user_id: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the days of a user with their known items, both in order."""
    by_day: dict[int, list[int]] = defaultdict(list)
    for event in dataset.histories[user_id]:
        if (row := catalog.row(event.item_id)) is not None:
            by_day[event.day].append(row)
    yield from sorted(by_day.items())


def _judge(
    release: Release, questions: Sequence[NextItem], options: argparse.Namespace
) -> list[Judged]:
    reasoner = TransformersReasoner.load(release.reasoner_dir, release.space, **place()._asdict())
    return judge_next_items(
        reasoner,
        release.catalog,
        questions,
        paths=options.paths,
        width=options.width,
        seed=options.seed,
    )


def _reasoner_columns(judged: Mapping[str, Sequence[Judged]]) -> Columns:
    columns: Columns = {}
    for name, found in judged.items():
        columns[name, "prefix_recall"] = np.array([float(one.is_found) for one in found])
        columns[name, "prefix_logprob"] = np.array([one.prefix_logprob for one in found])
        columns[name, "item_logprob"] = np.array([one.item_logprob for one in found])
    return columns


def simple_columns(
    dataset: Dataset, release: Release, asked: Sequence[Asked], daily: Sequence[Judged]
) -> Columns:
    """Judge popular prefixes and counts, both of the days before each day."""
    state = _Simple(dataset, release, asked[0].day)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    at = 0
    for day, questions in asked:
        state.learn_before(day)
        everyone, recent = state.popularity(), state.recent_popularity(day)
        for question in questions:
            wanted, most = int(state.prefix_N[question.target]), daily[at].num_prefixes
            at += 1
            for name, prob_P in (("popularity", everyone), ("popularity_recent", recent)):
                found[name, "prefix_recall"].append(_is_in_first(prob_P, wanted, most))
                found[name, "prefix_logprob"].append(float(np.log(prob_P[wanted])))
            evidence_P = state.evidence(question.history.rows) + 1e-9 * everyone
            found["counts", "prefix_recall"].append(_is_in_first(evidence_P, wanted, most))
    return {name: np.array(values) for name, values in found.items()}


def _is_in_first(score_P: NDArray[np.float64], wanted: int, most: int) -> float:
    return float((score_P > score_P[wanted]).sum() < most)


class _Simple:
    """Popularity of prefixes and counts of items, which learn the days in order."""

    def __init__(self, dataset: Dataset, release: Release, first_day: int) -> None:
        """Learn all days before `first_day`."""
        catalog = release.catalog
        prefixes = catalog.sids[:, : catalog.space.prefix_depth]
        codes_PC, self.prefix_N = np.unique(prefixes, axis=0, return_inverse=True)
        self._by_day: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
        before: list[list[int]] = []
        for user_id in sorted(dataset.histories):
            history: list[int] = []
            before.append([])
            for day, rows in _days_of(dataset, catalog, user_id):
                self._by_day[day].append((list(history), rows))
                before[-1] += rows if day < first_day else ()
                history += rows
        settings = release.manifest.memory or MemorySettings()
        self._counts = LiveCounts.of_histories(before, len(catalog), settings)
        self._events_P = np.zeros(len(codes_PC))
        for day in self._by_day:
            self._events_P += self._of_day(day) if day < first_day else 0
        self._days = [day for day in sorted(self._by_day) if day >= first_day]

    def _of_day(self, day: int) -> NDArray[np.float64]:
        """Count the events of a day by prefix, (P,)."""
        rows = [row for _, of_user in self._by_day.get(day, []) for row in of_user]
        num = len(self._events_P)
        return np.bincount(self.prefix_N[rows], minlength=num).astype(np.float64)

    def learn_before(self, day: int) -> None:
        """Learn all days before one."""
        while self._days and self._days[0] < day:
            learnt = self._days.pop(0)
            for history, rows in self._by_day[learnt]:
                for at, row in enumerate(rows):
                    self._counts.add([*history, *rows[:at]], row)
            self._events_P += self._of_day(learnt)

    def popularity(self) -> NDArray[np.float64]:
        """Return the probability of each prefix, (P,)."""
        smoothed_P = self._events_P + 1
        probability_P: NDArray[np.float64] = smoothed_P / smoothed_P.sum()
        return probability_P

    def recent_popularity(self, day: int) -> NDArray[np.float64]:
        """Return the probability of each prefix by the last days, (P,)."""
        mixed_P = _SMOOTHING * self.popularity()
        for each in range(day - _POPULAR_DAYS, day):
            mixed_P += self._of_day(each)
        probability_P: NDArray[np.float64] = mixed_P / mixed_P.sum()
        return probability_P

    def evidence(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Return the evidence of counts for each prefix, summed over its items, (P,)."""
        evidence_N = self._counts.evidence(rows)
        num = len(self._events_P)
        return np.bincount(self.prefix_N, weights=evidence_N, minlength=num).astype(np.float64)


def _summarise(
    columns: Columns, asked: Sequence[Asked], *, seed: int
) -> tuple[list[dict[str, str | int | float]], Differences]:
    """Return a row for each model, and paired differences; intervals over resampled users."""
    users = [question.history.user_id for each in asked for question in each.questions]
    user_E = np.unique(np.array(users), return_inverse=True)[1]
    compared = dict(columns)
    for one, other in _COMPARED:
        for metric in _METRICS:
            if (one, metric) in columns and (other, metric) in columns:
                difference = columns[one, metric] - columns[other, metric]
                compared[f"{one} minus {other}", metric] = difference
    rows: dict[str, dict[str, str | int | float]] = {}
    differences: Differences = {}
    for (name, metric), interval in bootstrap_clusters(compared, user_E, seed=seed).items():
        if (name, metric) in columns:
            rows.setdefault(name, {"name": name}).update(interval.columns(metric))
        else:
            differences.setdefault(name, {})[metric] = interval
    return list(rows.values()), differences


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("reasoner-days", __doc__)
    add_release(parser)
    add_data(parser)
    add = parser.add_argument
    add("--learnt", type=Path, nargs="+", required=True, metavar="DIR", help="releases of the days")
    add("--from-day", type=int, required=True, metavar="D", help="first day, since 1970")
    add("--to-day", type=int, required=True, metavar="D", help="last day")
    add(
        "--held-out",
        action="store_true",
        help="judge the last two items of each user alone, which a held-out release has not learnt",
    )
    add("--paths", type=int, default=2, help="thoughts an event (default: %(default)s)")
    add("--width", type=int, default=10, help="beams a thought (default: %(default)s)")
    add_seed(parser)
    add_json(parser)
    return parser.parse_args(arguments)
