"""Users whose records give them away, what is asked for them, and what is wrong with an answer.

No two users of a generation share a prefix, and in another generation each has somebody else's: an
item that came by a record says whose record, and of which night. Knows nothing of sockets.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np

from bench.common.synthetic_users import THOUGHT, user_id
from bench.load.arrivals import Kind
from bench.load.http_connection import Answer, render
from models.release.release import Release
from models.store.events import HISTORY_LIMIT

NUM_PREFIXES = 8  # of each record
NUM_STRANGERS = 500  # users without a record, of whom nothing is known
_MAX_USERS = 1000
_STRANGER_SHARE, _EXCLUDE_SHARE, _EXPLAIN_SHARE, _UNION_SHARE = 0.03, 0.25, 0.1, 0.05
_RECORDED = ("personal", "stale")
_OK = 200
_TAKEN = (200, 202)  # an event stored, or kept for a store that is away


class Question(NamedTuple):
    """What is sent and what an answer to it must not hold.

    user: number of a user with a record; None for a stranger. asked_at: monotonic.
    """

    kind: Kind
    payload: bytes
    user_id: str
    user: int | None
    asked_at: float
    excluded: frozenset[str] = frozenset()
    event: str | None = None  # an item


class Reply(NamedTuple):
    """What became of a question.

    due_at: monotonic; latency_s counts from there. status: 0 for no answer. flaws: promises that
    the answer breaks, `foreign`, `illegal`, `excluded`, `seen`, `twice`. store_ms: as the service
    says, 0 where it says nothing.
    """

    kind: Kind
    due_at: float
    latency_s: float
    status: int
    source: str = ""
    is_degraded: bool = False
    generation: int | None = None
    flaws: tuple[str, ...] = ()
    store_ms: float = 0.0
    has_retry_after: bool = False

    @property
    def ended_at(self) -> float:
        return self.due_at + self.latency_s

    @property
    def is_full(self) -> bool:
        """A recommendation from a user's record with nothing amiss."""
        return self.source == "personal" and not self.is_degraded


@dataclass
class Truth:
    """What the store was given, and what it took since.

    shifts: by generation, how far its records are moved from user to user. histories: the items of
    each user at the start. is_history_certain: False once replies were corrupted, as an event in
    the store carries no checksum.
    """

    release: Release
    shifts: dict[int, int]
    histories: Sequence[Sequence[str]]
    is_history_certain: bool = True

    def __post_init__(self) -> None:
        self._prefixes = self.release.catalog.trie.prefixes()
        codes = (tuple(row) for row in self._prefixes.tolist())
        self._block = {prefix: at // NUM_PREFIXES for at, prefix in enumerate(codes)}
        self._done = [
            deque(((item, 0.0) for item in each), maxlen=HISTORY_LIMIT) for each in self.histories
        ]

    @property
    def num_users(self) -> int:
        return len(self.histories)

    def start_of(self, user: int, generation: int) -> int:
        """Where among the trie's prefixes this user's begin."""
        return (user + self.shifts[generation]) % self.num_users * NUM_PREFIXES

    def starts(self, generation: int) -> list[int]:
        return [self.start_of(user, generation) for user in range(self.num_users)]

    def owns(self, user: int, generation: int, sid: Sequence[int]) -> bool:
        depth = self.release.catalog.space.prefix_depth
        block = self._block.get(tuple(sid[:depth]))
        return block is not None and block * NUM_PREFIXES == self.start_of(user, generation)

    def seen(self, user: int) -> Mapping[str, float]:
        """Items of this user's history, which forgets the oldest, and when that was known,
        monotonic; 0 for the start."""
        known: dict[str, float] = {}
        for item, at in self._done[user]:
            known.setdefault(item, at)
        return known

    def take(self, user: int, item: str, at: float) -> None:
        self._done[user].append((item, at))


def num_users_of(release: Release) -> int:
    return min(len(release.catalog.trie.prefixes()) // NUM_PREFIXES, _MAX_USERS)


class Questioner:
    """Draws questions, judges answers."""

    def __init__(self, truth: Truth, *, event_share: float = 0.05, seed: int = 0) -> None:
        self._truth = truth
        self._event_share = event_share
        self._rng = np.random.default_rng(seed)
        self._items = truth.release.catalog.item_ids

    def draw(self, at: float) -> Question:
        rng, truth = self._rng, self._truth
        user = int(rng.integers(truth.num_users))
        if rng.random() < self._event_share:
            item = self._items[rng.integers(len(self._items))]
            body = json.dumps({"item_id": item}).encode()
            payload = render("POST", f"/events/{user_id(user)}", body=body)
            return Question("event", payload, user_id(user), user, at, event=item)
        is_stranger = rng.random() < _STRANGER_SHARE
        name = f"stranger{rng.integers(NUM_STRANGERS)}" if is_stranger else user_id(user)
        params: dict[str, str] = {"n": "10"}
        excluded: frozenset[str] = frozenset()
        if rng.random() < _EXCLUDE_SHARE:
            excluded = self._some_of(user)
            params["exclude"] = ",".join(sorted(excluded))
        if rng.random() < _EXPLAIN_SHARE:
            params["explain"] = "true"
        if rng.random() < _UNION_SHARE:
            params["mode"] = "union"
        payload = render("GET", f"/recommend/{quote(name, safe='')}?{urlencode(params)}")
        return Question("recommend", payload, name, None if is_stranger else user, at, excluded)

    def _some_of(self, user: int) -> frozenset[str]:
        """Items that would be recommended: the first below one of the user's prefixes."""
        generation = max(self._truth.shifts)
        catalog = self._truth.release.catalog
        start = self._truth.start_of(user, generation)
        prefix = catalog.trie.prefixes()[start + int(self._rng.integers(NUM_PREFIXES))]
        depth = catalog.space.prefix_depth
        rows = np.flatnonzero((catalog.sids[:, :depth] == prefix).all(axis=1))
        return frozenset(catalog.item_ids[row] for row in rows[:5].tolist())

    def judge(self, question: Question, answer: Answer | None, now: float) -> Reply:
        """`now`: monotonic, when the answer was there or given up."""
        latency_s = now - question.asked_at
        if answer is None:
            return Reply(question.kind, question.asked_at, latency_s, 0)
        if question.event is not None and question.user is not None and answer.status in _TAKEN:
            self._truth.take(question.user, question.event, now)
        if question.event is not None or answer.status != _OK:
            return Reply(
                question.kind,
                question.asked_at,
                latency_s,
                answer.status,
                has_retry_after=answer.has_retry_after,
            )
        body = json.loads(answer.body)
        return Reply(
            question.kind,
            question.asked_at,
            latency_s,
            answer.status,
            source=body["source"],
            is_degraded=body["degraded"],
            generation=(body["generation"] or {}).get("id"),
            flaws=find_flaws(self._truth, question, body),
            store_ms=body["timings_ms"].get("store", 0.0),
        )


def find_flaws(truth: Truth, question: Question, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Every promise of R7 and R8 that an answer breaks, once each."""
    catalog, items = truth.release.catalog, body["items"]
    named = [item["item_id"] for item in items]
    found = set()
    if _is_foreign(truth, question, body):
        found.add("foreign")
    for item in items:
        row = catalog.row(item["item_id"])
        if row is None or catalog.sids[row].tolist() != list(item["sid"]):
            found.add("illegal")
    if question.excluded.intersection(named):
        found.add("excluded")
    if len(set(named)) < len(named):
        found.add("twice")
    if _holds_seen(truth, question, body, named):
        found.add("seen")
    return tuple(sorted(found))


def _is_foreign(truth: Truth, question: Question, body: Mapping[str, Any]) -> bool:
    """Whether anything in it comes from a record that is not this user's, or of another night."""
    generation = (body["generation"] or {}).get("id")
    recorded = [item for item in body["items"] if item["source"] in _RECORDED]
    texts = {path["text"] for path in body.get("paths", ())}
    if body["user_id"] != question.user_id:
        return True
    if question.user is None:
        return bool(recorded or texts or generation is not None)
    if not texts <= {THOUGHT, thought_about(question.user)}:
        return True
    if generation is None:
        return bool(recorded)
    return generation not in truth.shifts or not all(
        truth.owns(question.user, generation, item["sid"]) for item in recorded
    )


def _holds_seen(
    truth: Truth, question: Question, body: Mapping[str, Any], named: Sequence[str]
) -> bool:
    """Whether it holds an item of the history that it must have used: all that was acknowledged
    before it was asked, or, where it says that it is degraded, what every copy of a record has."""
    if question.user is None or not truth.is_history_certain:
        return False
    if body["degraded"] and body["source"] not in _RECORDED:
        return False
    known_by = 0.0 if body["degraded"] else question.asked_at
    seen = truth.seen(question.user)
    return any(item in seen and seen[item] <= known_by for item in named)


def thought_about(user: int) -> str:
    return f"A thought about {user_id(user)}."
