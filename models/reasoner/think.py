"""The night's pure core: histories to thoughts to C_u. No clock, no I/O.

Called by the offline job and by the benchmark.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix, Sid
from models.reasoner.beam import Beam, Scorer, beam_search
from models.reasoner.prompts import Cited, think_prompt

MAX_HISTORY = 50  # items that a reasoner reads, unless its recipe has another number


class PathPrefix(NamedTuple):
    """One prefix of C_u."""

    codes: Prefix
    path: int | None  # number of the best path; None if no thought found the prefix
    # log P(prefix | history, best path), or by all that a night knows (models/night/).
    logprob: float
    support: int  # number of paths that found the prefix


class NightItem(NamedTuple):
    """An item that the night found likely for a user."""

    codes: Sid
    bonus: float  # nats that it adds to the item's online score


@dataclass(frozen=True)
class UserHistory:
    """A user's input to a night."""

    user_id: str
    # Catalog rows of the history, oldest first; not empty, and at most as many as the reasoner
    # reads, see `items_read`.
    rows: tuple[int, ...]
    instruction: str | None = None  # the user's wish, in the user's words
    # Names and texts, for a reasoner that has learnt to read them, see `reads_attributes`.
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class UserThoughts:
    """A night's result for one user."""

    user_id: str
    texts: tuple[str, ...]  # of the closed paths
    prefixes: tuple[PathPrefix, ...]  # C_u, best prefix first
    dropped_paths: int  # paths that never closed
    tokens: int  # sampled tokens, of all paths
    items: tuple[NightItem, ...] = ()  # largest bonus first; each SID once


class Cites(Protocol):
    """Finds the prefixes that others went on to from a history."""

    def cite(self, history: Sequence[int]) -> Sequence[Cited]:
        """Return prefixes with counts, most evidence first; none where nothing is known."""


class ThoughtBatch(Protocol):
    """Sampled paths of a batch of prompts, ready to be continued by codes."""

    texts: list[list[str]]  # per prompt: its closed paths
    num_dropped: list[int]  # per prompt: paths that never closed
    num_tokens: list[int]  # per prompt

    def scorer(self) -> Scorer:
        """Return a scorer after every closed path; contexts in the order of `texts` flattened."""


class Reasoner(Protocol):
    """A language model that thinks about prompts and then scores itemic tokens."""

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> ThoughtBatch:
        """Sample `paths` thoughts a prompt (Eq. 8), repeatable by one seed a prompt."""


def think_users(
    reasoner: Reasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    *,
    paths: int,
    width: int,
    seeds: Sequence[int],
    max_prefixes: int = 100,
    evidence: Cites | None = None,
) -> list[UserThoughts]:
    """Sample paths, search prefixes and unite them, for one micro-batch (Eq. 8 to 10).

    evidence: for a reasoner that has learnt to read it.
    """
    thoughts = reasoner.think(
        [render_user(catalog, user, evidence) for user in users],
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
    """Derive one user's seed. It does not depend on the batch or its order."""
    digest = hashlib.blake2b(f"{seed}/{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def items_read(recipe: Mapping[str, Any]) -> int:
    """Return how many items of a history a release's reasoner reads, by the release's recipe."""
    return int(recipe.get("reasoner", {}).get("history", MAX_HISTORY))


def reads_evidence(recipe: Mapping[str, Any]) -> bool:
    """Tell if a release's reasoner has learnt to read evidence, by the release's recipe."""
    return bool(recipe.get("thoughts", {}).get("evidence", 0.0))


def reads_attributes(metrics: Mapping[str, Any]) -> bool:
    """Tell if a release's reasoner has learnt to read attributes of users in its prompts.

    metrics: of the release's manifest.
    """
    return bool(metrics.get("reasoner", {}).get("attributes_in_prompts"))


def render_user(catalog: Catalog, user: UserHistory, evidence: Cites | None = None) -> str:
    """Render the prompt for a user, with evidence if there is a source of it."""
    cited = evidence.cite(user.rows) if evidence is not None else ()
    return render_history(catalog, user.rows, user.instruction, cited, attributes=user.attributes)


def render_history(
    catalog: Catalog,
    rows: Sequence[int],
    instruction: str | None = None,
    evidence: Sequence[Cited] = (),
    *,
    attributes: Iterable[tuple[str, str]] = (),
) -> str:
    """Render the prompt for a history (A.1), of at most as many items as the reasoner reads."""
    sids = [tuple(sid) for sid in catalog.sids[list(rows)].tolist()]
    return think_prompt(catalog.space, sids, instruction, evidence, attributes=attributes)


def unite(beams_per_path: Sequence[Sequence[Beam]]) -> list[PathPrefix]:
    """Unite paths to C_u (Eq. 10): each prefix once, by its best path.

    Best first; ties by support, then by codes.
    """
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
