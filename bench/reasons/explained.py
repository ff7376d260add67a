"""Explained answers of users: the list as the service gives it, beside history and record."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.reasons.product_run import Answers
from models.release.release import Release
from models.store.records import RecordedPrefix
from models.store.redis_store import RedisStore

NUM_SERVED = 10
_STORE_TIMEOUT_MS = 5000


@dataclass(frozen=True)
class Explained:
    """One user's answer."""

    user_id: str
    rows: tuple[int, ...]  # catalog rows of the history, oldest first
    texts: tuple[str, ...]  # thoughts by path number
    prefixes: tuple[RecordedPrefix, ...]
    items: Sequence[dict[str, Any]]  # as served


def ask_all(
    answers: Answers,
    rows_of: Mapping[str, tuple[int, ...]],
    *,
    redis_url: str,
    release: Release,
    on_progress: Callable[[int], None],
) -> list[Explained]:
    """Ask for users by id; those without a record are left out."""
    prefixes = asyncio.run(_read_prefixes(redis_url, release, list(rows_of)))
    found = []
    for number, (user_id, rows) in enumerate(rows_of.items(), start=1):
        answer = answers.ask(user_id, n=NUM_SERVED, explain=True)
        if answer is not None:
            texts = tuple(path["text"] for path in answer["paths"])
            found.append(Explained(user_id, rows, texts, prefixes[user_id], answer["items"]))
        on_progress(number)
    return found


async def _read_prefixes(
    redis_url: str, release: Release, user_ids: Sequence[str]
) -> dict[str, tuple[RecordedPrefix, ...]]:
    store = RedisStore(redis_url, _STORE_TIMEOUT_MS)
    try:
        manifest = await store.read_manifest()
        layers = [layer.generation for layer in manifest.layers] if manifest is not None else []
        found = {}
        for user_id in user_ids:
            state = await store.read_user(user_id, layers, release.space)
            found[user_id] = state.record.prefixes if state.record is not None else ()
    finally:
        await store.close()
    return found
