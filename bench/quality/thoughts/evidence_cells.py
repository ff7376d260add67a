"""One reasoner asked in four ways: with and without a thought, with and without evidence.

Each answer is the log-probability of the target's prefix, and the prefixes that a night would keep.
Knows nothing of the online tier.
"""

# R = paths of a micro-batch, D = codes of a prefix

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from bench.common.leave_one_out import Case, target_rows
from bench.quality.thoughts.forced_thoughts import sid_logprobs
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import ThoughtSettings
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.reasoner.beam import beam_search
from models.reasoner.think import Cites, render_user, unite, user_seed
from models.reasoner.transformers_engine import TransformersReasoner, TransformersThoughts

NUM_PREFIXES = 32  # of a user, in every row
_BATCH = 32
_NO_PATH = -20.0  # log-probability where no thought closed


class Way(NamedTuple):
    """A way to ask."""

    has_thought: bool
    has_evidence: bool

    @property
    def name(self) -> str:
        thought = "thought" if self.has_thought else "at once"
        return f"{thought}, evidence" if self.has_evidence else thought


WAYS = tuple(Way(thought, evidence) for thought in (False, True) for evidence in (False, True))


class Answer(NamedTuple):
    """The answer for one user."""

    logprob: float  # of the target's prefix; mean probability over paths
    prefixes: tuple[Prefix, ...]  # best first


def ask(
    cache: ThoughtCache,
    reasoner: TransformersReasoner,
    catalog: Catalog,
    cases: Sequence[Case],
    way: Way,
    evidence: Cites,
    on_progress: Callable[[int], None],
) -> list[Answer]:
    """Ask about all cases, which have targets, unless the cache has the answers."""
    order = sorted(range(len(cases)), key=lambda at: len(cases[at].history.rows))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        chunk = [cases[at] for at in chosen]
        prompts = [
            render_user(catalog, case.history, evidence if way.has_evidence else None)
            for case in chunk
        ]
        known = [(case.history.user_id, case.target) for case in chunk]
        kept = cache.kept(
            "answers",
            [way.has_thought, NUM_PREFIXES, prompts, known],
            partial(_ask, cache.settings, reasoner, catalog, chunk, prompts, way),
        )
        answers = [Answer(logp, tuple(map(tuple, prefixes))) for logp, prefixes in kept]
        found |= zip(chosen, answers, strict=True)
        on_progress(len(found))
    return [found[at] for at in range(len(cases))]


def _ask(
    settings: ThoughtSettings,
    reasoner: TransformersReasoner,
    catalog: Catalog,
    cases: Sequence[Case],
    prompts: Sequence[str],
    way: Way,
) -> list[Answer]:
    """Answer one micro-batch: with thoughts, or with one beam as wide as all paths together."""
    if way.has_thought:
        seeds = [user_seed(settings.seed, case.history.user_id) for case in cases]
        thoughts = reasoner.think(prompts, paths=settings.paths, seeds=seeds)
        return _answers(thoughts, catalog, cases, settings.width)
    thoughts = reasoner.recite(prompts, [[""]] * len(prompts))
    return _answers(thoughts, catalog, cases, settings.paths * settings.width)


def _answers(
    thoughts: TransformersThoughts, catalog: Catalog, cases: Sequence[Case], width: int
) -> list[Answer]:
    depth = catalog.space.prefix_depth
    beams = beam_search(thoughts.scorer(), catalog.trie, depth=depth, width=width)
    closed = [len(texts) for texts in thoughts.texts]
    targets = np.repeat(target_rows(cases), closed)
    wanted_RD = catalog.sids[targets][:, :depth].astype(np.int64)
    logp_R = sid_logprobs(thoughts.scorer(), wanted_RD)
    answers, at = [], 0
    for num, num_dropped in zip(closed, thoughts.num_dropped, strict=True):
        own = slice(at, at + num)
        at += num
        prefixes = tuple(found.codes for found in unite(beams[own])[:NUM_PREFIXES])
        total = float(np.logaddexp.reduce(logp_R[own])) - float(np.log(num + num_dropped))
        answers.append(Answer(max(_NO_PATH, total) if num else _NO_PATH, prefixes))
    return answers
