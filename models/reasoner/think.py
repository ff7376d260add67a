"""The night's pure core: histories to thoughts to C_u. No clock, no I/O.

The offline job and the benchmark both call it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.reasoner.beam import Beam, Scorer, beam_search
from models.reasoner.prompts import think_prompt

MAX_HISTORY = 50


class PathPrefix(NamedTuple):
    """One prefix of C_u: its best path, that path's log P(prefix), and how many paths found it."""

    codes: Prefix
    path: int
    logprob: float
    support: int


@dataclass(frozen=True)
class UserHistory:
    """Catalog rows, oldest first; not empty. instruction: what the user asks for in words."""

    user_id: str
    rows: tuple[int, ...]
    instruction: str | None = None


@dataclass(frozen=True)
class UserThoughts:
    """What a night leaves for one user: the closed paths, and C_u with the best prefix first."""

    user_id: str
    texts: tuple[str, ...]
    prefixes: tuple[PathPrefix, ...]
    dropped_paths: int
    tokens: int


class ThoughtBatch(Protocol):
    """Sampled paths of a batch of prompts, ready to be continued by codes.

    texts: per prompt, its closed paths. num_dropped / num_tokens: per prompt.
    """

    texts: list[list[str]]
    num_dropped: list[int]
    num_tokens: list[int]

    def scorer(self) -> Scorer:
        """Scores codes after every closed path, contexts in the order of `texts` flattened."""


class Reasoner(Protocol):
    """A language model that thinks about prompts and then scores itemic tokens."""

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> ThoughtBatch:
        """Sample `paths` thoughts a prompt (Eq. 8); one seed a prompt makes it repeatable."""


def think_users(
    reasoner: Reasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    *,
    paths: int,
    width: int,
    seeds: Sequence[int],
    max_prefixes: int = 100,
) -> list[UserThoughts]:
    """Paths, constrained prefixes and their union for one micro-batch (Eq. 8 to 10)."""
    thoughts = reasoner.think(
        [render_history(catalog, user.rows, user.instruction) for user in users],
        paths=paths,
        seeds=seeds,
    )
    depth = catalog.space.prefix_depth
    beams = beam_search(thoughts.scorer(), catalog.trie, depth=depth, width=width)
    at = 0
    results = []
    for index, user in enumerate(users):
        texts = thoughts.texts[index]
        prefixes = unite(beams[at : at + len(texts)])[:max_prefixes]
        at += len(texts)
        results.append(
            UserThoughts(
                user.user_id,
                tuple(texts),
                tuple(prefixes),
                thoughts.num_dropped[index],
                thoughts.num_tokens[index],
            )
        )
    return results


def user_seed(seed: int, user_id: str) -> int:
    """One user's seed, the same in whatever batch or order the user is thought about."""
    digest = hashlib.blake2b(f"{seed}/{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def render_history(catalog: Catalog, rows: Sequence[int], instruction: str | None = None) -> str:
    """The prompt for a history; the paper keeps its last 50 items (A.1)."""
    sids = catalog.sids[list(rows[-MAX_HISTORY:])].tolist()
    return think_prompt(catalog.space, [tuple(sid) for sid in sids], instruction)


def unite(beams_per_path: Sequence[Sequence[Beam]]) -> list[PathPrefix]:
    """C_u (Eq. 10): each prefix once, by its best path; best first, ties by support, then codes."""
    best: dict[Prefix, PathPrefix] = {}
    for path, beams in enumerate(beams_per_path):
        for codes, logprob in beams:
            earlier = best.get(codes)
            support = earlier.support + 1 if earlier else 1
            if earlier is None or logprob > earlier.logprob:
                best[codes] = PathPrefix(codes, path, logprob, support)
            else:
                best[codes] = earlier._replace(support=support)
    return sorted(best.values(), key=lambda found: (-found.logprob, -found.support, found.codes))
