"""The quality table: who finds the item that was left out, ranking the whole catalog.

Every row masks what the user has seen. The two-tier rows rank by the online model's joint
log-probability (Eq. 11), which one pass over the whole catalog gives exactly, and differ only in
the prefixes that they may choose from. Knows nothing of Redis, HTTP or the disk.
"""

# B = users of a batch, U = all users, N = catalog rows, P = legal prefixes, C = columns

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.candidates import Coverage, Nodes, PrefixMap, equally_many_popular, shuffled
from bench.histories import Case, mask_seen, target_rows
from bench.metrics import Interval, bootstrap, ndcg_at, rank_targets, recall_at
from bench.thoughts import Thoughts
from models.catalog import Catalog
from models.one_pass import CatalogScorer

BATCH_USERS = 32
CUTOFFS = (5, 10)
STRICT, SHUFFLED, POPULAR = "two_tier_strict", "two_tier_shuffled", "two_tier_popular_prefixes"
OWN = "online_own_prefixes"


@dataclass(frozen=True)
class Outcome:
    """One row before averaging. rank: of each target, infinity where it was not ranked."""

    rank_U: NDArray[np.float64]
    coverage: Coverage
    seconds: float


@dataclass(frozen=True)
class Table:
    """Rows as `bench` writes them, and what else is said about prefix recall.

    prefix_recall_gain: strict minus another choice of equally many prefixes, paired by user.
    own_prefix_recall: of the online model's own prefixes, as many as C_u has.
    """

    rows: list[dict[str, str | int | float]]
    prefix_recall_gain: dict[str, Interval]
    own_prefix_recall: Interval


class Evaluation:
    """All rows over the same cases. `thoughts.users` stands in the order of `cases`."""

    def __init__(
        self, scorer: CatalogScorer, catalog: Catalog, cases: Sequence[Case], thoughts: Thoughts
    ) -> None:
        self._scorer, self._catalog = scorer, catalog
        self._cases, self._thoughts = cases, thoughts
        self._map = PrefixMap(catalog)
        self._own_nodes = [self._map.nodes(user.prefixes) for user in thoughts.users]
        self._target_U = target_rows(cases)
        self._batches = length_batches([len(case.history.rows) for case in cases])
        self._ranks: dict[str, NDArray[np.float64]] = {}
        self._seconds: dict[str, float] = {}
        self._has_own_prefix_U = np.zeros(len(cases))

    def run(self, *, seed: int, on_progress: Callable[[int], None]) -> Table:
        """Rank, average, compare; `on_progress` hears the users done so far."""
        outcomes = self.rank_all(seed=seed, on_progress=on_progress)
        return summarise(outcomes, self._has_own_prefix_U, seed=seed)

    def rank_all(self, *, seed: int, on_progress: Callable[[int], None]) -> dict[str, Outcome]:
        """Every row, user by user."""
        chosen = {
            STRICT: self._own_nodes,
            SHUFFLED: shuffled(self._own_nodes, seed=seed),
            POPULAR: equally_many_popular(self._map, self._own_nodes),
        }
        num_done = 0
        for users in self._batches:
            self._rank_batch(users, chosen)
            num_done += len(users)
            on_progress(num_done)
        return self._outcomes(chosen)

    def _rank_batch(self, users: list[int], chosen: Mapping[str, Sequence[Nodes]]) -> None:
        popularity = self._catalog.popularity.astype(np.float64)
        self._rank("popularity", users, lambda: np.tile(popularity, (len(users), 1)))
        histories = [self._cases[user].history.rows for user in users]
        online_BN = self._rank("online", users, lambda: self._scorer.score(histories))
        self._rank("reasoner", users, lambda: self._reasoner_scores(users))
        for name, nodes in chosen.items():
            below = partial(self._scores_below, [nodes[user] for user in users], online_BN)
            self._rank(name, users, below)
        self._has_own_prefix_U[users] = self._finds_own_prefix(users, histories)

    def _rank(
        self, name: str, users: list[int], score: Callable[[], NDArray[np.floating]]
    ) -> NDArray[np.floating]:
        """Score, mask, rank and take the time; returns the masked scores."""
        started = time.perf_counter()
        scores_BN = score()
        mask_seen(scores_BN, [self._cases[user] for user in users])
        rank_U = self._ranks.setdefault(name, np.full(len(self._cases), np.inf))
        rank_U[users] = rank_targets(scores_BN, self._target_U[users])
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started
        return scores_BN

    def _scores_below(
        self, nodes: Sequence[Nodes], online_BN: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Exact Eq. 11 below each user's prefixes, -inf elsewhere."""
        return np.where(self._map.rows_below(nodes), online_BN, -np.inf)

    def _reasoner_scores(self, users: list[int]) -> NDArray[np.float64]:
        """The reasoner's own log P(SID) of the SIDs that its beams ended in, -inf elsewhere."""
        scores_BN = np.full((len(users), len(self._catalog)), -np.inf)
        first_row = self._catalog.first_row
        for at, user in enumerate(self._thoughts.users[user] for user in users):
            codes = np.array(user.sids, dtype=np.int64).reshape(-1, self._catalog.space.levels)
            leaves = self._catalog.trie.nodes(codes).tolist()
            for leaf, logprob in zip(leaves, user.sid_logprobs, strict=True):
                scores_BN[at, first_row[leaf] : first_row[leaf + 1]] = logprob
        return scores_BN

    def _outcomes(self, chosen: Mapping[str, Sequence[Nodes]]) -> dict[str, Outcome]:
        everything = self._map.cover_everything(self._target_U)
        depth = self._catalog.space.prefix_depth
        beams = [
            np.unique(self._map.nodes([sid[:depth] for sid in user.sids]))
            for user in self._thoughts.users
        ]
        coverage = {
            "popularity": everything,
            "online": everything,
            "reasoner": self._map.cover(beams, self._target_U),
            **{name: self._map.cover(nodes, self._target_U) for name, nodes in chosen.items()},
        }
        return {
            name: Outcome(self._ranks[name], covered, self._total_seconds(name))
            for name, covered in coverage.items()
        }

    def _total_seconds(self, name: str) -> float:
        """What a row costs by itself: its ranking and the models behind it."""
        seconds = self._seconds[name]
        if name in (STRICT, SHUFFLED, POPULAR):
            seconds += self._seconds["online"]
        if name in ("reasoner", STRICT, SHUFFLED):
            seconds += self._thoughts.seconds
        return seconds

    def _finds_own_prefix(
        self, users: list[int], histories: Sequence[Sequence[int]]
    ) -> NDArray[np.bool_]:
        """Whether the online model's own prefixes hold the target, as many as each C_u has."""
        order_BP = self._scorer.rank_prefixes(histories)
        size_B1 = np.array([[len(self._own_nodes[user])] for user in users])
        is_first_BP = np.arange(order_BP.shape[1]) < size_B1
        target_B = self._target_U[users]
        wanted_B1 = np.where(target_B >= 0, self._map.prefix_of_row[target_B], -1)[:, None]
        found_B: NDArray[np.bool_] = ((order_BP == wanted_B1) & is_first_BP).any(axis=1)
        return found_B


def length_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Users in batches of like history length: a batch is padded to its longest, at a price."""
    order = sorted(range(len(lengths)), key=lambda user: lengths[user])
    return [order[at : at + BATCH_USERS] for at in range(0, len(order), BATCH_USERS)]


def summarise(
    outcomes: Mapping[str, Outcome], has_own_prefix_U: NDArray[np.float64], *, seed: int
) -> Table:
    """Means and 95% intervals; one bootstrap for all columns, so that differences are paired."""
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name, outcome in outcomes.items():
        for k in CUTOFFS:
            columns[name, f"recall@{k}"] = recall_at(outcome.rank_U, k)
            columns[name, f"ndcg@{k}"] = ndcg_at(outcome.rank_U, k)
        columns[name, "prefix_recall"] = outcome.coverage.has_target_U.astype(np.float64)
    strict_U = columns[STRICT, "prefix_recall"]
    others = {name: columns[name, "prefix_recall"] for name in (SHUFFLED, POPULAR)}
    others[OWN] = has_own_prefix_U
    gains = {("gain", name): strict_U - other_U for name, other_U in others.items()}
    columns = columns | gains | {(OWN, "prefix_recall"): has_own_prefix_U}
    intervals = bootstrap(np.stack(list(columns.values()), axis=1), seed=seed)
    by_column = dict(zip(columns, intervals, strict=True))
    return Table(
        rows=[_row(name, outcome, by_column) for name, outcome in outcomes.items()],
        prefix_recall_gain={name: by_column["gain", name] for name in others},
        own_prefix_recall=by_column[OWN, "prefix_recall"],
    )


def _row(
    name: str, outcome: Outcome, intervals: Mapping[tuple[str, str], Interval]
) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {"name": name}
    measured = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in CUTOFFS]
    for column in (*measured, "prefix_recall"):
        interval = intervals[name, column]
        row |= {column: interval.mean, f"{column}_low": interval.low}
        row[f"{column}_high"] = interval.high
    coverage = outcome.coverage
    row["prefixes"] = float(coverage.prefixes_U.mean())
    row["fan_out"] = float(coverage.items_U.sum() / max(1, coverage.prefixes_U.sum()))
    row["seconds"] = outcome.seconds
    return row
