"""Thoughts for the users of an evaluation, made in chunks and processes; each chunk is cached.

Knows reasoners and the cache. Knows nothing of targets or ranks.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path

from rich.console import Console

from bench.common.leave_one_out import Case
from bench.common.results import open_progress
from bench.quality.thoughts.think_chunks import think_chunks
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts
from models.reasoner.think import UserHistory

CHUNK_USERS = 16
# Users of a block are sorted by length of history: a batch is padded to its longest history.
_BLOCK_USERS = 64 * CHUNK_USERS
_POLL_S = 0.5


def think_cases(
    console: Console, cache: ThoughtCache, cases: Sequence[Case], *, workers: int
) -> Thoughts:
    """Return thoughts of every case; a user without a known item has none."""
    users = [case.history for case in cases if case.history.rows]
    with open_progress(console, "thinking", len(users)) as on_progress:
        found = collect_thoughts(cache, users, workers=workers, on_progress=on_progress)
    by_user = {user.user_id: user for user in found.users}
    everybody = [
        by_user.get(case.history.user_id, CaseThoughts.nothing(case.history.user_id))
        for case in cases
    ]
    return Thoughts(everybody, found.seconds)


def collect_thoughts(
    cache: ThoughtCache,
    users: Sequence[UserHistory],
    *,
    workers: int,
    on_progress: Callable[[int], None],
) -> Thoughts:
    """Think about every user missing in the cache, then read all users from it.

    Args:
        users: must have a history.
        workers: number of processes, of which a GPU gets one. One worker is this process, and torch
            stays at one thread.
        on_progress: gets the number of users done so far.
    """
    chunks = plan_chunks(users)
    missing = [chunk for chunk in chunks if not cache.file(chunk).exists()]
    if missing:
        sizes = {cache.file(chunk): len(chunk) for chunk in chunks}
        _think_all(cache, missing, workers, lambda: on_progress(_num_done(sizes)))
    parts = [cache.read(chunk) for chunk in chunks]
    on_progress(len(users))
    by_user = {user.user_id: user for part in parts for user in part.users}
    seconds = sum(part.seconds for part in parts)
    return Thoughts([by_user[user.user_id] for user in users], seconds)


def plan_chunks(users: Sequence[UserHistory]) -> list[list[UserHistory]]:
    """Return micro-batches of users with histories of similar length.

    A larger sample begins with the same micro-batches, but for the last block.
    """
    chunks = []
    for start in range(0, len(users), _BLOCK_USERS):
        block = sorted(users[start : start + _BLOCK_USERS], key=lambda user: len(user.rows))
        chunks += [block[at : at + CHUNK_USERS] for at in range(0, len(block), CHUNK_USERS)]
    return chunks


def _think_all(
    cache: ThoughtCache,
    chunks: Sequence[Sequence[UserHistory]],
    workers: int,
    report: Callable[[], None],
) -> None:
    workers = min(workers, len(chunks)) if cache.settings.device == "cpu" else 1
    if workers == 1:
        think_chunks(cache, chunks, report)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        shares = [chunks[worker::workers] for worker in range(workers)]
        pending = {pool.submit(think_chunks, cache, share) for share in shares}
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
            for share in done:
                share.result()
            report()


def _num_done(sizes: Mapping[Path, int]) -> int:
    """Return the number of users whose files exist."""
    return sum(size for file, size in sizes.items() if file.exists())
