"""`python -m bench faithfulness`: does what is recommended follow from what was thought?

The reasoner's own thoughts are recited to it whole, cut short, left empty and swapped with those of
another user; a beam after each shows what the words are worth (Fig. 5 of the paper).
"""

# U = users

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from bench.alone import rank_of_target
from bench.candidates import another_user
from bench.histories import Case, cut_histories
from bench.metrics import Interval, bootstrap, ndcg_at, recall_at
from bench.quality import open_progress, signed, think_cases
from bench.recitals import EMPTY, SHUFFLED, STEPS, Recital, recite
from bench.report import open_console, print_table, write_json, write_markdown
from bench.thoughts import CHUNK_USERS, CaseThoughts, ThoughtCache, ThoughtSettings
from models import prompts
from models.catalog import Catalog
from models.dataset import load_dataset
from models.errors import InvalidDataset
from models.reasoner import TransformersReasoner
from models.release import Release
from models.think import unite

VARIANTS = (*STEPS, SHUFFLED)
COLUMNS = ("name", "recall@10", "ndcg@10", "prefix_recall", "log_p_target", "follows")
_GAINS = ("recall@10", "ndcg@10", "prefix_recall", "log_p_target")


@dataclass(frozen=True)
class Heard:
    """One user under one variant.

    rank: of the target among the SIDs of all paths, infinity beyond. has_prefix: whether C_u holds
    it. log_p_target: mean over paths. follows: of the paths whose words name a next topic, the
    share whose best prefix is of that topic; None if none does.
    """

    rank: float
    has_prefix: bool
    log_p_target: float
    follows: float | None


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    settings = ThoughtSettings(paths=options.paths, width=options.width, seed=options.seed)
    cache = ThoughtCache.open(options.cache, release, settings)
    kept = _closed(console, cache, release.catalog, options)
    reasoner = TransformersReasoner.load(cache.reasoner_dir, release.space)
    listener = Listener(cache, release.catalog, reasoner)
    with open_progress(console, "reciting", len(kept) * len(VARIANTS)) as on_progress:
        heard = listener.hear_all(kept, seed=options.seed, on_progress=on_progress)
    rows, gains = summarise(heard, seed=options.seed)
    meta = {
        "command": "faithfulness",
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "split": options.split,
        "users": len(kept),
        "settings": settings.to_json(),
        "gain_over_empty": {
            name: {column: interval._asdict() for column, interval in found.items()}
            for name, found in gains.items()
        },
    }
    print_table(console, f"{meta['release']}, {len(kept):,} users", rows, COLUMNS)
    for name, found in gains.items():
        said = (f"{column} {signed(interval)}" for column, interval in found.items())
        console.print(f"{name} minus {EMPTY}: {', '.join(said)}")
    if options.json:
        write_json(options.json, meta, rows)
        title = "What a thought is worth"
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, COLUMNS)
    return 0


def _closed(
    console: Console, cache: ThoughtCache, catalog: Catalog, options: argparse.Namespace
) -> list[tuple[Case, CaseThoughts]]:
    """The users with something to find whose thoughts all closed. Raises InvalidDataset if nobody
    is left."""
    cases = cut_histories(
        load_dataset(options.data),
        catalog,
        split=options.split,
        num_users=options.users,
        seed=options.seed,
    )
    cases = [case for case in cases if case.target is not None and case.history.rows]
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    kept = [
        (case, user)
        for case, user in zip(cases, thoughts.users, strict=True)
        if len(user.texts) == cache.settings.paths
    ]
    if len(kept) < 2:
        raise InvalidDataset(f"{options.data}: {len(kept)} users with closed thoughts, expected 2")
    return kept


class Listener:
    """Recites to one reasoner and notes what follows; each micro-batch is kept on disk."""

    def __init__(
        self, cache: ThoughtCache, catalog: Catalog, reasoner: TransformersReasoner
    ) -> None:
        self._cache, self._catalog, self._reasoner = cache, catalog, reasoner
        self._topic_of = prompts.prefix_topics(catalog)

    def hear_all(
        self,
        kept: Sequence[tuple[Case, CaseThoughts]],
        *,
        seed: int,
        on_progress: Callable[[int], None],
    ) -> dict[str, list[Heard]]:
        """By variant, in the order of `kept`; `on_progress` hears how many are done."""
        texts = [user.texts for _, user in kept]
        said = {
            name: [[shorten(text) for text in own] for own in texts]
            for name, shorten in STEPS.items()
        }
        said[SHUFFLED] = [list(texts[at]) for at in another_user(len(kept), seed=seed).tolist()]
        order = sorted(range(len(kept)), key=lambda at: len(kept[at][0].history.rows))
        heard: dict[str, list[Heard]] = {}
        num_done = 0
        for name in VARIANTS:
            by_user: dict[int, Heard] = {}
            for start in range(0, len(order), CHUNK_USERS):
                chunk = order[start : start + CHUNK_USERS]
                cases = [kept[at][0] for at in chunk]
                found = self._hear(cases, [said[name][at] for at in chunk])
                by_user |= dict(zip(chunk, found, strict=True))
                num_done += len(chunk)
                on_progress(num_done)
            heard[name] = [by_user[at] for at in range(len(kept))]
        return heard

    def _hear(self, cases: Sequence[Case], texts: Sequence[Sequence[str]]) -> list[Heard]:
        asked = json.dumps(
            [[case.history.user_id, case.history.rows, case.target] for case in cases]
        )
        digest = hashlib.blake2b(f"{asked}{json.dumps(texts)}".encode(), digest_size=16).hexdigest()
        file = self._cache.folder / f"recital-{digest}.json"
        if file.exists():
            return [Heard(**one) for one in json.loads(file.read_text())]
        users = [case.history for case in cases]
        targets = [case.target for case in cases]
        width = self._cache.settings.width
        recitals = recite(self._reasoner, self._catalog, users, texts, targets, width=width)
        found = [
            self._note(case, own, recital)
            for case, own, recital in zip(cases, texts, recitals, strict=True)
        ]
        draft = file.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps([vars(one) for one in found]))
        draft.replace(file)
        return found

    def _note(self, case: Case, texts: Sequence[str], recital: Recital) -> Heard:
        assert case.target is not None
        assert recital.target_logprobs is not None
        sids = [sid.codes for sid in unite(recital.sids)]
        wanted = tuple(self._catalog.sids[case.target].tolist())
        prefix = wanted[: self._catalog.space.prefix_depth]
        named = [
            (topic, beams[0].codes)
            for text, beams in zip(texts, recital.prefixes, strict=True)
            if (topic := prompts.next_topic(text)) and beams
        ]
        agreeing = [self._topic_of[codes] == topic for topic, codes in named]
        return Heard(
            rank=rank_of_target(self._catalog, case, sids),
            has_prefix=prefix in {beam.codes for path in recital.prefixes for beam in path},
            log_p_target=float(np.mean(recital.target_logprobs)),
            follows=float(np.mean(agreeing)) if agreeing else None,
        )


def summarise(
    heard: dict[str, list[Heard]], *, seed: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Interval]]]:
    """A row a variant, and what each gains over an empty thought, paired by user."""
    columns = {name: _columns(found) for name, found in heard.items()}
    pairs = {
        (name, column): columns[name][column] - columns[EMPTY][column]
        for name in heard
        if name != EMPTY
        for column in _GAINS
    }
    plain = {(name, column): columns[name][column] for name in heard for column in _GAINS}
    values = np.stack([*plain.values(), *pairs.values()], axis=1)
    found = bootstrap(values, seed=seed)
    means = dict(zip(plain, found, strict=False))
    gains = dict(zip(pairs, found[len(plain) :], strict=True))
    rows = [_row(name, heard[name], means) for name in heard]
    return rows, {
        name: {column: gains[name, column] for column in _GAINS} for name in heard if name != EMPTY
    }


def _columns(found: Sequence[Heard]) -> dict[str, NDArray[np.float64]]:
    rank_U = np.array([one.rank for one in found])
    return {
        "recall@10": recall_at(rank_U, 10),
        "ndcg@10": ndcg_at(rank_U, 10),
        "prefix_recall": np.array([float(one.has_prefix) for one in found]),
        "log_p_target": np.array([one.log_p_target for one in found]),
    }


def _row(
    name: str, found: Sequence[Heard], means: dict[tuple[str, str], Interval]
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    for column in _GAINS:
        mean, low, high = means[name, column]
        row |= {column: mean, f"{column}_low": low, f"{column}_high": high}
    following = [one.follows for one in found if one.follows is not None]
    return row | ({"follows": float(np.mean(following))} if following else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench faithfulness", allow_abbrev=False)
    add = parser.add_argument
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--split", choices=("test", "valid"), default="test")
    add("--users", type=int, default=2000, metavar="N", help="a seeded sample (2000)")
    add("--paths", type=int, default=ThoughtSettings.paths, metavar="T")
    add("--width", type=int, default=ThoughtSettings.width, metavar="M", help="beams a path")
    add("--seed", type=int, default=0, metavar="S")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--cache", type=Path, default=Path(".state/bench"), metavar="DIR", help="kept thoughts")
    add("--json", type=Path, metavar="FILE")
    return parser
