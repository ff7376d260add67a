"""Thoughts for one chunk of users: as in a night, without a thought, or path by path.

Knows reasoners and the cache. Knows nothing of processes.
"""

import time
from collections.abc import Callable, Sequence

import torch
from transformers.utils import logging as transformers_logging

from bench.quality.thoughts.no_thought import Manner, recommend_without_thought
from bench.quality.thoughts.path_beams import PathBeams, search_paths, unite_paths
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts, ThoughtSettings
from models.catalog.catalog import Catalog
from models.reasoner.beam import beam_search
from models.reasoner.think import Reasoner, ThoughtBatch, UserHistory, think_users, unite, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release


def think_chunks(
    cache: ThoughtCache,
    chunks: Sequence[Sequence[UserHistory]],
    report: Callable[[], None] = lambda: None,
) -> None:
    """Run one worker: load the release, think chunk by chunk, cache each complete chunk."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    release = Release.load(cache.release_dir)
    settings = cache.settings
    reasoner = cache.load_reasoner(release.space, closing=settings.manner.closing)
    think = think_paths if settings.widths else think_chunk
    if settings.manner is not Manner.THINK:
        think = ask_chunk
    for chunk in chunks:
        started = time.perf_counter()
        users = think(reasoner, release.catalog, chunk, settings)
        cache.write(chunk, Thoughts(users, time.perf_counter() - started))
        report()


def think_chunk(
    reasoner: Reasoner, catalog: Catalog, users: Sequence[UserHistory], settings: ThoughtSettings
) -> list[CaseThoughts]:
    """Make C_u exactly as the night does, then whole SIDs after the same paths."""
    remembering = _Remembering(reasoner)
    night = think_users(
        remembering,
        catalog,
        users,
        paths=settings.paths,
        width=settings.width,
        seeds=[user_seed(settings.seed, user.user_id) for user in users],
        max_prefixes=settings.max_prefixes,
    )
    levels = catalog.space.levels
    beams = beam_search(
        remembering.batch.scorer(), catalog.trie, depth=levels, width=settings.width
    )
    found = []
    at = 0
    for user in night:
        united = unite(beams[at : at + len(user.texts)])
        at += len(user.texts)
        found.append(
            CaseThoughts(
                user_id=user.user_id,
                texts=user.texts,
                found=user.prefixes,
                sids=tuple(sid.codes for sid in united),
                dropped_paths=user.dropped_paths,
                tokens=user.tokens,
            )
        )
    return found


def ask_chunk(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    settings: ThoughtSettings,
) -> list[CaseThoughts]:
    """Make prefixes and SIDs without a thought: no text, no token."""
    found = recommend_without_thought(
        reasoner, catalog, users, manner=settings.manner, width=settings.width
    )
    return [
        CaseThoughts(
            user_id=user.user_id,
            texts=(),
            found=tuple(unite([beams.prefixes])[: settings.max_prefixes]),
            sids=tuple(beam.codes for beam in beams.sids),
            dropped_paths=0,
            tokens=0,
        )
        for user, beams in zip(users, found, strict=True)
    ]


def think_paths(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    settings: ThoughtSettings,
) -> list[CaseThoughts]:
    """Keep the paths of a night one by one, and make C_u of all of them."""
    found = search_paths(
        reasoner,
        catalog,
        users,
        paths=settings.paths,
        widths=settings.widths,
        seeds=[user_seed(settings.seed, user.user_id) for user in users],
    )
    return [
        _from_paths(user.user_id, paths, settings) for user, paths in zip(users, found, strict=True)
    ]


def _from_paths(
    user_id: str, paths: tuple[PathBeams, ...], settings: ThoughtSettings
) -> CaseThoughts:
    texts = tuple(path.text for path in paths if path.text is not None)
    return CaseThoughts(
        user_id=user_id,
        texts=texts,
        found=unite_paths(
            paths,
            paths=settings.paths,
            width=settings.width,
            max_prefixes=settings.max_prefixes,
        ),
        sids=(),
        dropped_paths=len(paths) - len(texts),
        tokens=sum(path.tokens for path in paths),
        paths=paths,
    )


class _Remembering:
    """A reasoner that keeps its last batch, so that its paths can be continued again."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        self.batch: ThoughtBatch

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> ThoughtBatch:
        self.batch = self._reasoner.think(prompts, paths=paths, seeds=seeds)
        return self.batch
