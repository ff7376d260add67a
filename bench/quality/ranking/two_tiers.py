"""Both tiers on one user for any C_u: rank of the target, and whether a prefix holds it.

The history is encoded once for all C_u that are tried. Knows nothing of the making of C_u.
"""

# U = users

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.common.leave_one_out import Case
from bench.quality.ranking.prefix_map import Nodes, PrefixMap
from bench.quality.ranking.quality_rows import CUTOFFS, NUM_OWN, ONLINE
from bench.quality.ranking.rank_metrics import bootstrap_named, ndcg_at, recall_at
from models.catalog.candidates import Candidates, from_nodes
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import window_start

PREFIX_COLUMNS = ("name", "prefix_recall", "own_prefix_recall", "prefix_recall_gain")
RANK_COLUMNS = ("name", "recall@10", "strict@10", "strict_gain@10", "union@10", "union_gain@10")
SILENT = ", no thought"  # behind the name of a choice of C_u
_K = max(CUTOFFS)


class Tried(NamedTuple):
    """Result of one C_u on one user. Ranks beyond the cutoffs are infinity."""

    strict_rank: float
    union_rank: float
    has_target: bool  # a prefix of C_u holds the target
    own_has_target: bool  # so does one of equally many best prefixes of the online model
    num_prefixes: int


class TwoTiers:
    """The finish of the service, over cases of a catalog."""

    def __init__(self, finisher: Finisher, catalog: Catalog) -> None:
        self._finisher, self._catalog = finisher, catalog
        self._map = PrefixMap(catalog)
        self._whole = Candidates(catalog.trie)

    def open(self, case: Case) -> "UserTrial":
        """Encode the whole history of the case, also if its C_u are made from less."""
        return UserTrial(self, case)

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        return self._finisher.encode(rows[window_start(len(rows), self._finisher.window) :])

    def own_prefixes(self, state: KeptHistory, count: int) -> Nodes:
        """Return the online model's own prefixes, best first."""
        return self._finisher.rank_prefixes(state, count=count)

    def nodes(self, prefixes: Sequence[Prefix]) -> Nodes:
        return self._map.nodes(prefixes)

    def holds(self, nodes: Nodes, target: int | None) -> bool:
        return target is not None and bool(self._map.prefix_of_row[target] in nodes)

    def rank(self, state: KeptHistory, case: Case, nodes: Nodes | None) -> float:
        """Return the target's rank among the best unseen items below some prefixes.

        Args:
            nodes: of the prefixes; None ranks the whole catalog.
        """
        tree = self._whole if nodes is None else from_nodes(self._catalog.trie, nodes)
        found = self._finisher.finish(state, tree, k=_K, exclude=case.seen)
        rows = [item.row for item in found]
        return rows.index(case.target) + 1.0 if case.target in rows else np.inf


class UserTrial:
    """One user, and the several C_u that are tried."""

    def __init__(self, tiers: TwoTiers, case: Case) -> None:
        self._tiers, self._case = tiers, case
        self._state = tiers.encode(case.seen)
        self._own = tiers.own_prefixes(self._state, NUM_OWN)

    def online_rank(self) -> float:
        """Return the target's rank by the online tier alone."""
        return self._tiers.rank(self._state, self._case, None)

    def attempt(self, prefixes: Sequence[Prefix], *, thought_of: Sequence[int]) -> Tried:
        """Rank the target with one C_u.

        Args:
            thought_of: catalog rows of the history from which C_u was made. The online model's own
                prefixes, with which C_u is compared, are made from the same rows.
        """
        tiers, case, nodes = self._tiers, self._case, self._tiers.nodes(prefixes)
        union = np.concatenate([nodes, self._own])
        own = self._own
        if tuple(thought_of) != case.history.rows:
            own = tiers.own_prefixes(tiers.encode(thought_of), len(nodes))
        return Tried(
            tiers.rank(self._state, case, nodes),
            tiers.rank(self._state, case, union),
            tiers.holds(nodes, case.target),
            tiers.holds(own[: len(nodes)], case.target),
            len(nodes),
        )


def compare(
    tried: Mapping[str, Sequence[Tried]],
    alone: Mapping[str, NDArray[np.float64]],
    *,
    seed: int,
    base: str | None = None,
) -> dict[str, dict[str, str | int | float]]:
    """Return rows by name: rankings alone, then every choice of C_u; means with intervals.

    `own_prefix_recall` is the recall of the online model's own best prefixes, as many as each C_u
    has. `prefix_recall_gain` is the gain over it; the other gains are over the recall of the online
    tier alone. A `_change` is from the choice named `base`. Gains and changes are paired by user.

    Args:
        tried: choice of C_u -> results of all users.
        alone: ranks by models that rank the whole catalog, the online tier among them.
    """
    columns = {(name, "recall@10"): recall_at(rank_U, 10) for name, rank_U in alone.items()}
    columns |= {(name, "ndcg@10"): ndcg_at(rank_U, 10) for name, rank_U in alone.items()}
    before = _columns(tried[base]) if base else {}
    for name, of_users in tried.items():
        found = _columns(of_users)
        for tier in ("strict", "union"):
            found[f"{tier}_gain@10"] = found[f"{tier}@10"] - columns[ONLINE, "recall@10"]
        columns |= {(name, column): values_U for column, values_U in found.items()}
        for column, before_U in before.items():
            columns[name, f"{column}_change"] = found[column] - before_U
    rows: dict[str, dict[str, str | int | float]] = {}
    for (name, column), interval in bootstrap_named(columns, seed=seed).items():
        rows.setdefault(name, {"name": name}).update(interval.columns(column))
    return rows


def _columns(tried: Sequence[Tried]) -> dict[str, NDArray[np.float64]]:
    """Return columns of results, each (U,)."""
    strict_U = np.array([one.strict_rank for one in tried])
    union_U = np.array([one.union_rank for one in tried])
    has_U = np.array([one.has_target for one in tried], dtype=np.float64)
    own_U = np.array([one.own_has_target for one in tried], dtype=np.float64)
    return {
        "prefix_recall": has_U,
        "own_prefix_recall": own_U,
        "prefix_recall_gain": has_U - own_U,
        "strict@10": recall_at(strict_U, 10),
        "strict_ndcg@10": ndcg_at(strict_U, 10),
        "union@10": recall_at(union_U, 10),
        "union_ndcg@10": ndcg_at(union_U, 10),
    }
