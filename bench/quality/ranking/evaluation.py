"""Rows of the quality table that need a reasoner: the reasoner alone, and both tiers.

Every row masks the items that the user has seen. The rows of both tiers rank by the online model's
joint log-probability (Eq. 11) with the exact finish of the service. They differ only in their
prefixes. Knows nothing of Redis, HTTP or the disk.
"""

# U = all users

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case, target_rows
from bench.quality.ranking.prefix_map import Nodes, PrefixMap, equally_many_popular, shuffled
from bench.quality.ranking.quality_rows import (
    AT_ONCE,
    CUTOFFS,
    NUM_OWN,
    POPULAR,
    REASONER,
    SHUFFLED,
    STRICT,
    STRICT_BEFORE,
    TIERS_AT_ONCE,
    UNION,
    UNION_BEFORE,
    Outcome,
)
from bench.quality.ranking.reasoner_rank import rank_of_target
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts
from models.catalog.candidates import from_nodes
from models.catalog.catalog import Catalog
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import window_start


class Evaluation:
    """Computes the rows over the same cases; `thoughts.users` must be in the order of `cases`."""

    def __init__(
        self,
        finisher: Finisher,
        catalog: Catalog,
        cases: Sequence[Case],
        thoughts: Thoughts,
        at_once: Thoughts | None = None,
        day_before: Thoughts | None = None,
        others: Mapping[str, Thoughts] | None = None,
    ) -> None:
        """Prepare the rows.

        Args:
            at_once: results of the same reasoner without thoughts; adds its rows. Each user gets
                as many prefixes and SIDs of them as `thoughts` has for the user.
            day_before: thoughts about the history up to the day before the target; adds its rows.
                The online model still reads the whole history.
            others: C_u of more rows of both tiers, by name.
        """
        self._at_once = at_once and _cut_to_size(at_once, thoughts)
        self._finisher, self._catalog = finisher, catalog
        self._cases, self._thoughts, self._day_before = cases, thoughts, day_before
        self._others = others or {}
        self._map = PrefixMap(catalog)
        self._own_nodes = self._nodes(thoughts)
        # Prefixes of each union; `_rank_own_prefixes` adds the online model's.
        self._unions = {UNION: list(self._own_nodes)}
        if day_before is not None:
            self._unions[UNION_BEFORE] = self._nodes(day_before)
        self._target_U = target_rows(cases)
        self._ranks: dict[str, NDArray[np.float64]] = {}
        self._seconds: dict[str, float] = {}
        # 1 where the online model's own best prefixes, as many as C_u has, hold the target.
        self.has_own_prefix_U = np.zeros(len(cases))

    def rank_all(self, *, seed: int, on_progress: Callable[[int], None]) -> dict[str, Outcome]:
        """Compute every row, user by user; `on_progress` gets the number of users done so far."""
        chosen = {
            STRICT: self._own_nodes,
            UNION: self._unions[UNION],
            SHUFFLED: shuffled(self._own_nodes, seed=seed),
            POPULAR: equally_many_popular(self._map, self._own_nodes),
        }
        if self._at_once is not None:
            chosen[TIERS_AT_ONCE] = self._nodes(self._at_once)
        if self._day_before is not None:
            chosen[STRICT_BEFORE] = self._nodes(self._day_before)
            chosen[UNION_BEFORE] = self._unions[UNION_BEFORE]
        for name, thoughts in self._others.items():
            chosen[name] = self._nodes(thoughts)
        for user, case in enumerate(self._cases):
            for name, found in self._alone.items():
                self._rank_alone(name, user, found.users[user])
            state = self._encode(case)
            self._rank_own_prefixes(user, state)
            for name, nodes in chosen.items():
                self._rank_below(name, user, state, nodes[user])
            on_progress(user + 1)
        return self._outcomes(chosen)

    @property
    def _alone(self) -> dict[str, Thoughts]:
        """Return the thoughts behind each row of the reasoner alone."""
        at_once = {AT_ONCE: self._at_once} if self._at_once is not None else {}
        return {REASONER: self._thoughts, **at_once}

    def _nodes(self, thoughts: Thoughts) -> list[Nodes]:
        return [self._map.nodes(user.prefixes) for user in thoughts.users]

    def _encode(self, case: Case) -> KeptHistory:
        started = time.perf_counter()
        rows = case.seen
        state = self._finisher.encode(rows[window_start(len(rows), self._finisher.window) :])
        self._add_seconds("encode", started)
        return state

    def _rank_below(self, name: str, user: int, state: KeptHistory, nodes: Nodes) -> None:
        """Rank the target among the best items below some prefixes; infinity beyond the cutoffs."""
        started = time.perf_counter()
        found = self._finisher.finish(
            state,
            from_nodes(self._catalog.trie, nodes),
            k=max(CUTOFFS),
            exclude=self._cases[user].seen,
        )
        rows, target = [item.row for item in found], self._target_U[user]
        self._set_rank(name, user, rows.index(target) + 1 if target in rows else np.inf)
        self._add_seconds(name, started)

    def _rank_alone(self, name: str, user: int, found: CaseThoughts) -> None:
        started = time.perf_counter()
        self._set_rank(name, user, rank_of_target(self._catalog, self._cases[user], found.sids))
        self._add_seconds(name, started)

    def _rank_own_prefixes(self, user: int, state: KeptHistory) -> None:
        """Note if the online model's own prefixes, as many as C_u has, hold the target."""
        own, target = self._own_nodes[user], self._target_U[user]
        best = self._finisher.rank_prefixes(state, count=max(NUM_OWN, len(own)))
        for nodes in self._unions.values():
            nodes[user] = np.concatenate([nodes[user], best[:NUM_OWN]])
        wanted = self._map.prefix_of_row[target] if target >= 0 else -1
        self.has_own_prefix_U[user] = wanted in best[: len(own)]

    def _set_rank(self, name: str, user: int, rank: float) -> None:
        self._ranks.setdefault(name, np.full(len(self._cases), np.inf))[user] = rank

    def _add_seconds(self, name: str, started: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def _outcomes(self, chosen: Mapping[str, Sequence[Nodes]]) -> dict[str, Outcome]:
        coverage = {
            **{
                name: self._map.cover(self._beam_nodes(found), self._target_U)
                for name, found in self._alone.items()
            },
            **{
                name: self._map.cover([np.unique(own) for own in nodes], self._target_U)
                for name, nodes in chosen.items()
            },
        }
        return {
            name: Outcome(self._ranks[name], covered, self._total_seconds(name))
            for name, covered in coverage.items()
        }

    def _beam_nodes(self, thoughts: Thoughts) -> list[Nodes]:
        """Return the prefixes of the reasoner's SIDs, per user."""
        depth = self._catalog.space.prefix_depth
        return [
            np.unique(self._map.nodes([sid[:depth] for sid in user.sids]))
            for user in thoughts.users
        ]

    def _total_seconds(self, name: str) -> float:
        """Return the seconds of a row by itself: its ranking and the models behind it."""
        seconds = self._seconds[name]
        if name not in self._alone:
            seconds += self._seconds["encode"]
        if name in (REASONER, STRICT, UNION, SHUFFLED):
            seconds += self._thoughts.seconds
        if name in (AT_ONCE, TIERS_AT_ONCE) and self._at_once is not None:
            seconds += self._at_once.seconds
        if name in self._others:
            seconds += self._others[name].seconds
        if name in (STRICT_BEFORE, UNION_BEFORE) and self._day_before is not None:
            seconds += self._day_before.seconds
        return seconds


def _cut_to_size(at_once: Thoughts, thoughts: Thoughts) -> Thoughts:
    """Cut each user's prefixes and SIDs to as many as `thoughts` has, so that budgets are equal."""
    users = [
        replace(one, found=one.found[: len(other.found)], sids=one.sids[: len(other.sids)])
        for one, other in zip(at_once.users, thoughts.users, strict=True)
    ]
    return Thoughts(users, at_once.seconds)
