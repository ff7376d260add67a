"""Think about one micro-batch. A failed user is set aside; the night continues.

Knows nothing of stores, files or clocks.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from models.catalog.catalog import Catalog
from models.errors import InvalidRecord
from models.reasoner.think import (
    Cites,
    Reasoner,
    UserHistory,
    UserThoughts,
    think_users,
    user_seed,
)
from models.store.records import PrefixRecord, RecordedItem, RecordedPrefix, encode_thoughts
from offline.disk.outcome import Outcome
from offline.settings import MAX_PREFIXES, RefreshSettings

logger = logging.getLogger(__name__)

Think = Callable[[Sequence[UserHistory]], list[UserThoughts]]


@runtime_checkable
class ThinksAhead(Protocol):
    """A `Think` that starts announced micro-batches before they are called for, in that order."""

    def __call__(self, users: Sequence[UserHistory]) -> list[UserThoughts]: ...

    def expect(self, batches: Sequence[Sequence[UserHistory]]) -> None: ...

    def close(self) -> None: ...


@contextmanager
def in_use(think: Think) -> Iterator[Think]:
    """Close a `ThinksAhead` at the end of the block, which ends its work in other processes."""
    try:
        yield think
    finally:
        if isinstance(think, ThinksAhead):
            think.close()


def bind_think(
    reasoner: Reasoner,
    catalog: Catalog,
    settings: RefreshSettings,
    evidence: Cites | None = None,
) -> Think:
    """Return a function that thinks about one micro-batch and checks the thoughts.

    evidence: for a reasoner that has learnt to read it.
    """
    return partial(_think, reasoner, catalog, settings, evidence)


def _think(
    reasoner: Reasoner,
    catalog: Catalog,
    settings: RefreshSettings,
    evidence: Cites | None,
    users: Sequence[UserHistory],
) -> list[UserThoughts]:
    found = think_users(
        reasoner,
        catalog,
        users,
        paths=settings.paths,
        width=settings.width,
        seeds=[user_seed(settings.seed, user.user_id) for user in users],
        max_prefixes=MAX_PREFIXES,
        evidence=evidence,
    )
    for thoughts in found:
        check_thoughts(catalog, thoughts)
    return found


def think_about(users: Sequence[UserHistory], think: Think, outcome: Outcome) -> list[UserThoughts]:
    """Think about a micro-batch and add its counts to `outcome`.

    If it fails, each user is tried alone. A user that fails alone is missing from the result and
    listed in `outcome.failed`. Raises MemoryError: the cause may be any user, and more memory may
    help.
    """
    try:
        found = think(users)
    except Exception as exc:  # noqa: BLE001 - each user is tried again below, and then logged
        _raise_if_out_of_memory(exc)
        logger.warning("a micro-batch failed (%s), trying its users alone", type(exc).__name__)
        found = [thoughts for user in users for thoughts in _think_alone(user, think, outcome)]
    for thoughts in found:
        outcome.count(thoughts)
    return found


def _think_alone(user: UserHistory, think: Think, outcome: Outcome) -> list[UserThoughts]:
    try:
        return think([user])
    except Exception as exc:
        _raise_if_out_of_memory(exc)
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        logger.exception("user %s is set aside: %s", _anonymous(user.user_id), reason)
        outcome.failed.append((user.user_id, reason))
        return []


def _raise_if_out_of_memory(exc: Exception) -> None:
    """Raise MemoryError for torch's out-of-memory errors.

    torch raises its own exception on an accelerator and a RuntimeError on the CPU.
    """
    is_torch = type(exc).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(exc)
    if is_torch or isinstance(exc, MemoryError):
        raise MemoryError("out of memory while thinking") from exc


def check_thoughts(catalog: Catalog, thoughts: UserThoughts) -> None:
    """Raise InvalidRecord unless the thoughts encode as texts and a record of legal prefixes."""
    if not thoughts.prefixes:
        return
    to_record(thoughts, generation=0, fingerprint=0, created_at=0).encode(thoughts.user_id)
    encode_thoughts(thoughts.texts, user_id=thoughts.user_id)
    codes_PD = np.array([prefix.codes for prefix in thoughts.prefixes])
    depth = catalog.space.prefix_depth
    if codes_PD.shape[1] != depth or (catalog.trie.nodes(codes_PD) < 0).any():
        raise InvalidRecord(f"a prefix is not {depth} codes of the catalog")


def to_record(
    thoughts: UserThoughts, *, generation: int, fingerprint: int, created_at: int
) -> PrefixRecord:
    prefixes = tuple(
        RecordedPrefix(prefix.codes, prefix.path, prefix.logprob) for prefix in thoughts.prefixes
    )
    items = tuple(RecordedItem(*item) for item in thoughts.items)
    return PrefixRecord(generation, fingerprint, created_at, prefixes, items)


def _anonymous(user_id: str) -> str:
    return hashlib.blake2b(user_id.encode(), digest_size=6).hexdigest()
