"""Thoughts about the users of an evaluation, kept on disk so that no path is sampled twice.

A chunk of users is one micro-batch and one Parquet file, named by the digest of what was asked, in
a folder named by settings and by what thinks: the release's reasoner and its catalog. A broken run
goes on where it stopped, a larger sample reuses the smaller one. Delete the folder to think again
after a change of the code that thinks.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers.utils import logging as transformers_logging

from bench.at_once import Manner, recommend_at_once
from bench.path_beams import PATHS, PathBeams, from_rows, prefixes_of, search_paths, to_rows
from models.beam import beam_search
from models.catalog import Catalog
from models.reasoner import TransformersReasoner
from models.release import Release
from models.sid import Prefix, Sid
from models.think import (
    Reasoner,
    ThoughtBatch,
    UserHistory,
    think_users,
    unite,
    user_seed,
)

CHUNK_USERS = 16
_BLOCK_USERS = 64 * CHUNK_USERS  # sorted by length within: a batch is padded to its longest history
_POLL_S = 0.5


@dataclass(frozen=True)
class ThoughtSettings:
    """T paths, beam width m, the cap of C_u and the seed of the samples.

    manner: other than `think` there is one path, which is no thought. widths: if there are any,
    beams of all of these are kept path by path (`width` is one of them), and no whole SIDs.
    """

    paths: int = 5
    width: int = 10
    max_prefixes: int = 100
    seed: int = 0
    manner: Manner = Manner.THINK
    widths: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Without `think` and without no widths, so that thoughts keep their place on disk."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value not in (Manner.THINK, ())}


def without_thought(settings: ThoughtSettings, manner: Manner) -> ThoughtSettings:
    """The same budget in one beam: as wide as all paths together."""
    width = settings.paths * settings.width
    return replace(settings, paths=1, width=width, manner=manner)


@dataclass(frozen=True)
class CaseThoughts:
    """What the reasoner left for one user of an evaluation.

    prefixes: C_u, best first. sids: the beams over whole SIDs of all paths, each by its best path,
    best first, with their log-probabilities: the reasoner alone. paths: all that were sampled, if
    the settings have widths.
    """

    user_id: str
    texts: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    sids: tuple[Sid, ...]
    sid_logprobs: tuple[float, ...]
    dropped_paths: int
    tokens: int
    paths: tuple[PathBeams, ...] = ()

    @classmethod
    def nothing(cls, user_id: str) -> "CaseThoughts":
        """Of a user without a history."""
        return cls(user_id, (), (), (), (), 0, 0)


@dataclass(frozen=True)
class Thoughts:
    """One entry per user, in the order asked; seconds are summed over workers and earlier runs."""

    users: list[CaseThoughts]
    seconds: float


@dataclass(frozen=True)
class ThoughtCache:
    """Where the thoughts of one reasoner over one catalog, under one set of settings, lie."""

    folder: Path
    release_dir: Path
    reasoner_dir: Path
    settings: ThoughtSettings

    @classmethod
    def open(
        cls,
        root: Path,
        release: Release,
        settings: ThoughtSettings,
        *,
        reasoner_dir: Path | None = None,
    ) -> "ThoughtCache":
        """reasoner_dir: of another reasoner over the same SIDs, instead of the release's own."""
        values = json.dumps(settings.to_json(), sort_keys=True)
        thinker = _digest(_thinker(release, reasoner_dir))[:12]
        folder = root / f"{release.name}-{thinker}-{_digest(values)[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(values + "\n")
        return cls(folder, release.directory, reasoner_dir or release.reasoner_dir, settings)

    def file(self, chunk: Sequence[UserHistory]) -> Path:
        asked = json.dumps([[user.user_id, user.rows] for user in chunk])
        return self.folder / f"{_digest(asked)}.parquet"


def collect_thoughts(
    cache: ThoughtCache,
    users: Sequence[UserHistory],
    *,
    workers: int,
    on_progress: Callable[[int], None],
) -> Thoughts:
    """Think about every user that the cache lacks, in `workers` processes, and read all of them.

    `on_progress` hears the number of users done so far. Users must have a history.
    """
    chunks = plan_chunks(users)
    missing = [chunk for chunk in chunks if not cache.file(chunk).exists()]
    if missing:
        _think_in_processes(cache, missing, workers, lambda: on_progress(_num_done(cache, chunks)))
    parts = [_read_chunk(cache.file(chunk)) for chunk in chunks]
    on_progress(len(users))
    by_user = {user.user_id: user for part in parts for user in part.users}
    seconds = sum(part.seconds for part in parts)
    return Thoughts([by_user[user.user_id] for user in users], seconds)


def plan_chunks(users: Sequence[UserHistory]) -> list[list[UserHistory]]:
    """Micro-batches of users with histories of like length; the same for every larger sample."""
    chunks = []
    for start in range(0, len(users), _BLOCK_USERS):
        block = sorted(users[start : start + _BLOCK_USERS], key=lambda user: len(user.rows))
        chunks += [block[at : at + CHUNK_USERS] for at in range(0, len(block), CHUNK_USERS)]
    return chunks


def think_chunks(cache: ThoughtCache, chunks: Sequence[Sequence[UserHistory]]) -> None:
    """One worker: load the release, think chunk by chunk, write each when it is whole."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    release = Release.load(cache.release_dir)
    settings = cache.settings
    reasoner = TransformersReasoner.load(
        cache.reasoner_dir, release.space, closing=settings.manner.closing
    )
    think = think_paths if settings.widths else think_chunk
    if settings.manner is not Manner.THINK:
        think = ask_chunk
    for chunk in chunks:
        started = time.perf_counter()
        users = think(reasoner, release.catalog, chunk, settings)
        _write_chunk(cache.file(chunk), Thoughts(users, time.perf_counter() - started))


def think_chunk(
    reasoner: Reasoner, catalog: Catalog, users: Sequence[UserHistory], settings: ThoughtSettings
) -> list[CaseThoughts]:
    """C_u exactly as the night makes it, then whole SIDs after the same paths."""
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
                prefixes=tuple(prefix.codes for prefix in user.prefixes),
                sids=tuple(sid.codes for sid in united),
                sid_logprobs=tuple(sid.logprob for sid in united),
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
    """What is recommended without a thought: no text, no token."""
    found = recommend_at_once(
        reasoner, catalog, users, manner=settings.manner, width=settings.width
    )
    return [
        CaseThoughts(
            user_id=user.user_id,
            texts=(),
            prefixes=tuple(beam.codes for beam in beams.prefixes[: settings.max_prefixes]),
            sids=tuple(beam.codes for beam in beams.sids),
            sid_logprobs=tuple(beam.logprob for beam in beams.sids),
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
    """The paths of a night one by one, and C_u of all of them."""
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
        prefixes=prefixes_of(
            paths,
            paths=settings.paths,
            width=settings.width,
            max_prefixes=settings.max_prefixes,
        ),
        sids=(),
        sid_logprobs=(),
        dropped_paths=len(paths) - len(texts),
        tokens=sum(path.tokens for path in paths),
        paths=paths,
    )


class _Remembering:
    """A reasoner that keeps its last batch, so that its paths can be continued once more."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        self.batch: ThoughtBatch

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> ThoughtBatch:
        self.batch = self._reasoner.think(prompts, paths=paths, seeds=seeds)
        return self.batch


def _think_in_processes(
    cache: ThoughtCache,
    chunks: Sequence[Sequence[UserHistory]],
    workers: int,
    report: Callable[[], None],
) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = min(workers, len(chunks))
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        shares = [chunks[worker::workers] for worker in range(workers)]
        pending = {pool.submit(think_chunks, cache, share) for share in shares}
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
            for share in done:
                share.result()
            report()


def _num_done(cache: ThoughtCache, chunks: Sequence[Sequence[UserHistory]]) -> int:
    return sum(len(chunk) for chunk in chunks if cache.file(chunk).exists())


def _write_chunk(file: Path, thoughts: Thoughts) -> None:
    users = thoughts.users
    table = pa.table(
        {
            "user_id": [user.user_id for user in users],
            "texts": pa.array([user.texts for user in users], pa.list_(pa.string())),
            "prefixes": pa.array([user.prefixes for user in users], _CODES),
            "sids": pa.array([user.sids for user in users], _CODES),
            "sid_logprobs": pa.array([user.sid_logprobs for user in users], pa.list_(pa.float64())),
            "dropped_paths": [user.dropped_paths for user in users],
            "tokens": [user.tokens for user in users],
            "paths": pa.array([to_rows(user.paths) for user in users], PATHS),
        }
    )
    draft = file.with_suffix(f".{os.getpid()}.draft")
    pq.write_table(table.replace_schema_metadata({_SECONDS: repr(thoughts.seconds)}), draft)
    draft.replace(file)


_CODES = pa.list_(pa.list_(pa.int32()))
_SECONDS = "seconds"


def _read_chunk(file: Path) -> Thoughts:
    table = pq.read_table(file)
    users = [
        CaseThoughts(
            user_id=row["user_id"],
            texts=tuple(row["texts"]),
            prefixes=tuple(tuple(codes) for codes in row["prefixes"]),
            sids=tuple(tuple(codes) for codes in row["sids"]),
            sid_logprobs=tuple(row["sid_logprobs"]),
            dropped_paths=row["dropped_paths"],
            tokens=row["tokens"],
            paths=from_rows(row.get("paths", ())),
        )
        for row in table.to_pylist()
    ]
    return Thoughts(users, float(table.schema.metadata[_SECONDS.encode()]))


def _thinker(release: Release, reasoner_dir: Path | None) -> str:
    """What thoughts depend on: another online recommender leaves them as they are."""
    files = dict(release.manifest.files)
    if reasoner_dir is not None:
        files = {name: sha for name, sha in files.items() if not name.startswith("reasoner/")}
        for file in sorted(reasoner_dir.glob("*.*")):
            files[f"reasoner/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    parts = [[name, sha] for name, sha in files.items()]
    return json.dumps(sorted(one for one in parts if one[0].startswith(("reasoner/", "catalog."))))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
