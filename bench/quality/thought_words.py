"""`python -m bench thought-words`: test if recommendations follow from thoughts.

The reasoner continues its own thoughts whole, cut short, emptied, and swapped with those of another
user. A beam search after each shows the worth of the words (Fig. 5 of the paper).
"""

# U = users

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.results import open_console, open_progress, report
from bench.quality.quality_options import (
    add_budget,
    describe_run,
    draw_cases,
    quality_parser,
    read_settings,
)
from bench.quality.ranking.paired_differences import Differences, print_differences, to_json
from bench.quality.ranking.prefix_map import another_user
from bench.quality.ranking.rank_metrics import bootstrap_named, ndcg_at, recall_at
from bench.quality.ranking.reasoner_rank import rank_of_target
from bench.quality.thoughts.forced_thoughts import (
    EMPTY,
    SHUFFLED,
    STEPS,
    Continuation,
    continue_thoughts,
)
from bench.quality.thoughts.think_cases import CHUNK_USERS, think_cases
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts
from models.catalog.catalog import Catalog
from models.errors import InvalidDataset
from models.reasoner import prompts, rationales
from models.reasoner.think import unite
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release

VARIANTS = (*STEPS, SHUFFLED)
COLUMNS = (
    *("name", "recall@10", "ndcg@10", "prefix_recall", "prefixes"),
    *("log_p_target", "follows"),
)
_MEASURED = ("recall@10", "ndcg@10", "prefix_recall", "log_p_target")


class VariantResult(NamedTuple):
    """Result of one user under one variant of the thoughts."""

    rank: float  # of the target among the SIDs of all paths; infinity if not among them
    has_prefix: bool  # C_u holds the target
    num_prefixes: int  # of C_u; paths with equal words find the same prefixes
    log_p_target: float  # mean over paths
    # Among paths that name a next topic: share whose best prefix has it. None: no such path.
    follows: float | None


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    cache = ThoughtCache.open(options.cache, release, read_settings(options))
    kept = _closed(console, cache, release, options)
    reasoner = cache.load_reasoner(release.space)
    runner = VariantRunner(cache, release.catalog, reasoner)
    with open_progress(console, "continuing", len(kept) * len(VARIANTS)) as on_progress:
        results = runner.run_all(kept, seed=options.seed, on_progress=on_progress)
    rows, gains = summarise(results, seed=options.seed)
    meta = {
        **describe_run("thought-words", options, release, kept),
        "settings": cache.settings.to_json(),
        "gain_over_empty": to_json(gains),
    }
    title = f"Worth of a thought: {meta['release']}, {len(kept):,} users"
    report(console, options.json, title, meta, rows, (COLUMNS,))
    print_differences(console, gains)
    return 0


def _closed(
    console: Console, cache: ThoughtCache, release: Release, options: argparse.Namespace
) -> list[tuple[Case, CaseThoughts]]:
    """Return the users with a known target and history whose thoughts all closed.

    Raises InvalidDataset for fewer than two.
    """
    drawn = draw_cases(options, release)
    cases = [case for case in drawn if case.target is not None and case.history.rows]
    thoughts = think_cases(console, cache, cases, workers=options.workers)
    kept = [
        (case, user)
        for case, user in zip(cases, thoughts.users, strict=True)
        if len(user.texts) == cache.settings.paths
    ]
    if len(kept) < 2:
        raise InvalidDataset(f"{options.data}: {len(kept)} users with closed thoughts, expected 2")
    return kept


class VariantRunner:
    """Forces thoughts on one reasoner and summarises the continuations; caches micro-batches."""

    def __init__(
        self, cache: ThoughtCache, catalog: Catalog, reasoner: TransformersReasoner
    ) -> None:
        self._cache, self._catalog, self._reasoner = cache, catalog, reasoner
        self._topic_of = prompts.prefix_topics(catalog)

    def run_all(
        self,
        kept: Sequence[tuple[Case, CaseThoughts]],
        *,
        seed: int,
        on_progress: Callable[[int], None],
    ) -> dict[str, list[VariantResult]]:
        """Return results by variant, in the order of `kept`.

        `on_progress` gets the number of users done so far, over all variants.
        """
        texts = [user.texts for _, user in kept]
        said = {
            name: [[shorten(text) for text in own] for own in texts]
            for name, shorten in STEPS.items()
        }
        said[SHUFFLED] = [list(texts[at]) for at in another_user(len(kept), seed=seed).tolist()]
        order = sorted(range(len(kept)), key=lambda at: len(kept[at][0].history.rows))
        results: dict[str, list[VariantResult]] = {}
        num_done = 0
        for name in VARIANTS:
            by_user: dict[int, VariantResult] = {}
            for start in range(0, len(order), CHUNK_USERS):
                chunk = order[start : start + CHUNK_USERS]
                cases = [kept[at][0] for at in chunk]
                found = self._run(cases, [said[name][at] for at in chunk])
                by_user |= dict(zip(chunk, found, strict=True))
                num_done += len(chunk)
                on_progress(num_done)
            results[name] = [by_user[at] for at in range(len(kept))]
        return results

    def _run(self, cases: Sequence[Case], texts: Sequence[Sequence[str]]) -> list[VariantResult]:
        asked = [[case.history.user_id, case.history.rows, case.target] for case in cases]
        found = self._cache.kept("recitals", [asked, texts], lambda: self._continue(cases, texts))
        return [VariantResult(*one) for one in found]

    def _continue(
        self, cases: Sequence[Case], texts: Sequence[Sequence[str]]
    ) -> list[VariantResult]:
        continuations = continue_thoughts(
            self._reasoner,
            self._catalog,
            [case.history for case in cases],
            texts,
            [case.target for case in cases],
            width=self._cache.settings.width,
        )
        return [
            self._summarise(case, own, continuation)
            for case, own, continuation in zip(cases, texts, continuations, strict=True)
        ]

    def _summarise(
        self, case: Case, texts: Sequence[str], continuation: Continuation
    ) -> VariantResult:
        assert case.target is not None
        assert continuation.target_logprobs is not None
        sids = [sid.codes for sid in unite(continuation.sids)]
        wanted = tuple(self._catalog.sids[case.target].tolist())
        prefix = wanted[: self._catalog.space.prefix_depth]
        found = {beam.codes for path in continuation.prefixes for beam in path}
        named = [
            (topic, beams[0].codes)
            for text, beams in zip(texts, continuation.prefixes, strict=True)
            if (topic := rationales.next_topic(text)) and beams
        ]
        agreeing = [self._topic_of[codes] == topic for topic, codes in named]
        return VariantResult(
            rank=rank_of_target(self._catalog, case, sids),
            has_prefix=prefix in found,
            num_prefixes=len(found),
            log_p_target=float(np.mean(continuation.target_logprobs)),
            follows=float(np.mean(agreeing)) if agreeing else None,
        )


def summarise(
    results: Mapping[str, Sequence[VariantResult]], *, seed: int
) -> tuple[list[dict[str, Any]], Differences]:
    """Return one row per variant, and the gains over an empty thought, paired by user."""
    columns = {
        (name, column): values_U
        for name, found in results.items()
        for column, values_U in _columns(found).items()
    }
    for name in results:
        if name != EMPTY:
            for column in _MEASURED:
                gain_U = columns[name, column] - columns[EMPTY, column]
                columns[f"{name} minus {EMPTY}", column] = gain_U
    rows: dict[str, dict[str, Any]] = {}
    gains: Differences = {}
    for (name, column), interval in bootstrap_named(columns, seed=seed).items():
        if name in results:
            rows.setdefault(name, {"name": name}).update(interval.columns(column))
        else:
            gains.setdefault(name, {})[column] = interval
    for name, found in results.items():
        following = [one.follows for one in found if one.follows is not None]
        rows[name]["prefixes"] = float(np.mean([one.num_prefixes for one in found]))
        rows[name] |= {"follows": float(np.mean(following))} if following else {}
    return list(rows.values()), gains


def _columns(found: Sequence[VariantResult]) -> dict[str, NDArray[np.float64]]:
    rank_U = np.array([one.rank for one in found])
    return {
        "recall@10": recall_at(rank_U, 10),
        "ndcg@10": ndcg_at(rank_U, 10),
        "prefix_recall": np.array([float(one.has_prefix) for one in found]),
        "log_p_target": np.array([one.log_p_target for one in found]),
    }


def _parser() -> argparse.ArgumentParser:
    parser = quality_parser("thought-words", __doc__, num_users=2000)
    add_budget(parser)
    return parser
