"""Synthetic users with disjoint prefixes, a generator of requests, and checks of answers.

No two users of a generation share a prefix, and in another generation each user has the prefixes of
another one. An item that came from a record therefore reveals the user and the night of the record.
Knows nothing of sockets.
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
NUM_STRANGERS = 500  # users without record and history
_MAX_USERS = 1000
_STRANGER_SHARE, _EXCLUDE_SHARE, _EXPLAIN_SHARE, _UNION_SHARE = 0.03, 0.25, 0.1, 0.05
_RECORDED = ("personal", "stale")
_OK = 200
_TAKEN = (200, 202)  # the event is stored, or buffered while the store is away


class Question(NamedTuple):
    """A request with the facts needed to check its answer."""

    kind: Kind
    payload: bytes
    user_id: str
    user: int | None  # number of a user with a record; None for a stranger
    asked_at: float  # monotonic
    excluded: frozenset[str] = frozenset()  # items that the answer must not have
    event: str | None = None  # item of an event


class Reply(NamedTuple):
    """Result of a question."""

    kind: Kind
    due_at: float  # monotonic
    latency_s: float  # from due_at
    status: int  # 0 for no answer
    source: str = ""
    is_degraded: bool = False
    generation: int | None = None
    flaws: tuple[str, ...] = ()  # broken promises: foreign, illegal, excluded, seen, twice
    store_ms: float = 0.0  # from the service's timings; 0 without
    has_retry_after: bool = False

    @property
    def ended_at(self) -> float:
        return self.due_at + self.latency_s

    @property
    def is_full(self) -> bool:
        """Tell if this is a recommendation from the user's record, not degraded."""
        return self.source == "personal" and not self.is_degraded


@dataclass
class Truth:
    """Content of the store: records and histories at the start, and acknowledged events."""

    release: Release
    shifts: dict[int, int]  # generation -> distance by which records move from user to user
    histories: Sequence[Sequence[str]]  # items of each user at the start
    is_history_certain: bool = True  # False after corruption: events in the store have no checksum

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
        """Return the index of the user's first prefix among those of the trie."""
        return (user + self.shifts[generation]) % self.num_users * NUM_PREFIXES

    def starts(self, generation: int) -> list[int]:
        return [self.start_of(user, generation) for user in range(self.num_users)]

    def owns(self, user: int, generation: int, sid: Sequence[int]) -> bool:
        depth = self.release.catalog.space.prefix_depth
        block = self._block.get(tuple(sid[:depth]))
        return block is not None and block * NUM_PREFIXES == self.start_of(user, generation)

    def seen(self, user: int) -> Mapping[str, float]:
        """Return the items of the user's history with their times of acknowledgement.

        Times are monotonic, 0 for the start. The history forgets its oldest items.
        """
        known: dict[str, float] = {}
        for item, at in self._done[user]:
            known.setdefault(item, at)
        return known

    def take(self, user: int, item: str, at: float) -> None:
        self._done[user].append((item, at))


def num_users_of(release: Release) -> int:
    return min(len(release.catalog.trie.prefixes()) // NUM_PREFIXES, _MAX_USERS)


class Questioner:
    """Draws questions and checks answers."""

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
            excluded = self._draw_excluded(user)
            params["exclude"] = ",".join(sorted(excluded))
        if rng.random() < _EXPLAIN_SHARE:
            params["explain"] = "true"
        params["mode"] = "union" if rng.random() < _UNION_SHARE else "strict"
        payload = render("GET", f"/recommend/{quote(name, safe='')}?{urlencode(params)}")
        return Question("recommend", payload, name, None if is_stranger else user, at, excluded)

    def _draw_excluded(self, user: int) -> frozenset[str]:
        """Return items that are likely in an answer: the first below one of the user's prefixes."""
        generation = max(self._truth.shifts)
        catalog = self._truth.release.catalog
        start = self._truth.start_of(user, generation)
        prefix = catalog.trie.prefixes()[start + int(self._rng.integers(NUM_PREFIXES))]
        depth = catalog.space.prefix_depth
        rows = np.flatnonzero((catalog.sids[:, :depth] == prefix).all(axis=1))
        return frozenset(catalog.item_ids[row] for row in rows[:5].tolist())

    def judge(self, question: Question, answer: Answer | None, now: float) -> Reply:
        """Check an answer; `now` is the time of the answer or of giving up (monotonic)."""
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
    """Return every promise of R7 and R8 that an answer breaks, once each."""
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
    """Tell if an answer has content from another user's record or from an unknown generation."""
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
    """Tell if an answer has an item of the history that the service must have used.

    This history is every event acknowledged before the question. For a degraded answer it is only
    the history at the start, which every copy of a record has.
    """
    if question.user is None or not truth.is_history_certain:
        return False
    if body["degraded"] and body["source"] not in _RECORDED:
        return False
    known_by = 0.0 if body["degraded"] else question.asked_at
    seen = truth.seen(question.user)
    return any(item in seen and seen[item] <= known_by for item in named)


def thought_about(user: int) -> str:
    return f"A thought about {user_id(user)}."
