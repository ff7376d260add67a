"""Comparison of a generation with the night before. Gates judge it, the report shows it.

Knows rows and prefixes. Knows nothing of stores or of limits.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.store.records import hash_user
from offline.disk.shards import ShardRow

MAX_COMPARED = 200_000  # users whose prefixes of the night before are kept in memory
NUM_BINS = 10  # of overlap, 0 to 1
LENGTH_STEP = 40  # characters of a thought
NUM_COSTLY = 10

Packed = bytes  # a user's prefixes as sorted 64-bit integers


class Costly(NamedTuple):
    """Tokens of an expensive user. Seconds are known only for a whole micro-batch."""

    tokens: int
    user_id: str


@dataclass
class Before:
    """The night before: counts over all users, and the prefixes of a sample of them."""

    num_users: int = 0
    num_prefixes: int = 0
    packed: dict[str, Packed] = field(default_factory=dict)  # user id -> prefixes, of the sample
    first_codes: Counter[int] = field(default_factory=Counter)  # of all prefixes
    share: float = 1.0  # sampled share of the users, chosen by hash

    @property
    def mean_prefixes(self) -> float:
        return self.num_prefixes / max(self.num_users, 1)


@dataclass
class Comparison:
    """Counts over a generation, and how it differs from the night before."""

    num_users: int = 0
    num_prefixes: int = 0
    num_illegal: int = 0  # prefixes that the catalog does not have
    num_texts: int = 0
    num_dropped: int = 0  # paths that never closed
    # Users, counted over the sampled share of `before`.
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    gone: int = 0
    overlap_sum: float = 0.0  # of Jaccard overlaps
    overlaps: list[int] = field(default_factory=lambda: [0] * NUM_BINS)  # users by overlap
    lengths: Counter[int] = field(default_factory=Counter)  # thoughts by characters // LENGTH_STEP
    first_codes: Counter[int] = field(default_factory=Counter)  # of all prefixes
    costly: list[Costly] = field(default_factory=list)  # heap of the users with the most tokens
    num_arrivals: int = 0  # events since the plan, with an item of the catalog
    recalled: int = 0  # of these, with a prefix in the new generation
    recalled_before: int = 0  # of these, with a prefix in the night before
    before: Before = field(default_factory=Before)

    @property
    def num_compared(self) -> int:
        return self.changed + self.unchanged

    @property
    def mean_overlap(self) -> float:
        return self.overlap_sum / max(self.num_compared, 1)

    @property
    def mean_prefixes(self) -> float:
        return self.num_prefixes / max(self.num_users, 1)

    @property
    def drift(self) -> float:
        """Total variation between the first codes of both nights: 0 if equal, 1 if disjoint."""
        today, before = self.first_codes, self.before.first_codes
        num, num_before = max(today.total(), 1), max(before.total(), 1)
        return 0.5 * sum(abs(today[c] / num - before[c] / num_before) for c in today | before)


def summarise_before(rows: Iterable[ShardRow], *, num_rows: int) -> Before:
    """Summarise the night before.

    rows: one per user. num_rows: their approximate number, which sets the sampled share.
    """
    before = Before(share=min(1.0, MAX_COMPARED / max(num_rows, 1)))
    for row in rows:
        codes_PD = _codes(row)
        before.num_users += 1
        before.num_prefixes += len(codes_PD)
        before.first_codes.update(codes_PD[:, 0].tolist())
        if _is_sampled(row.thoughts.user_id, before.share):
            before.packed[row.thoughts.user_id] = pack(codes_PD)
    return before


def compare(
    rows: Iterable[ShardRow],
    before: Before,
    catalog: Catalog,
    arrivals: Mapping[str, Sequence[str]],
) -> Comparison:
    """Compare a generation with the night before.

    arrivals: user id -> items of the events since the night was planned.
    """
    result = Comparison(before=before)
    seen = 0
    for row in rows:
        user_id, codes_PD = row.thoughts.user_id, _codes(row)
        packed = pack(codes_PD)
        _count(result, row, codes_PD, catalog)
        earlier = before.packed.get(user_id)
        if earlier is not None:
            seen += 1
            _count_overlap(result, packed, earlier)
        elif _is_sampled(user_id, before.share):
            result.new += 1
        if user_id in arrivals:
            _count_recall(result, catalog, arrivals[user_id], packed, earlier)
    result.gone = len(before.packed) - seen
    return result


def pack(codes_PD: NDArray[np.int64]) -> Packed:
    """Pack distinct prefixes as sorted integers: equal sets of prefixes give equal bytes."""
    packed_P = np.zeros(len(codes_PD), dtype=np.int64)
    for column in codes_PD.T:
        packed_P = (packed_P << 16) | column
    return np.unique(packed_P).tobytes()


def _codes(row: ShardRow) -> NDArray[np.int64]:
    prefixes = row.thoughts.prefixes
    return np.array([prefix.codes for prefix in prefixes], dtype=np.int64).reshape(
        len(prefixes), -1 if prefixes else 1
    )


def _is_sampled(user_id: str, share: float) -> bool:
    return share >= 1.0 or hash_user(user_id) < share * 2**64


def _count(
    result: Comparison, row: ShardRow, codes_PD: NDArray[np.int64], catalog: Catalog
) -> None:
    thoughts = row.thoughts
    result.num_users += 1
    result.num_prefixes += len(codes_PD)
    result.num_texts += len(thoughts.texts)
    result.num_dropped += thoughts.dropped_paths
    result.num_illegal += _num_illegal(codes_PD, catalog)
    result.first_codes.update(codes_PD[:, 0].tolist())
    result.lengths.update(len(text) // LENGTH_STEP for text in thoughts.texts)
    push = heapq.heappush if len(result.costly) < NUM_COSTLY else heapq.heappushpop
    push(result.costly, Costly(thoughts.tokens, thoughts.user_id))


def _num_illegal(codes_PD: NDArray[np.int64], catalog: Catalog) -> int:
    depth = catalog.space.prefix_depth
    if not len(codes_PD) or codes_PD.shape[1] != depth:
        return len(codes_PD)
    is_inside = (codes_PD < np.array(catalog.space.sizes[:depth])).all(axis=1)
    return int((~is_inside).sum() + (catalog.trie.nodes(codes_PD[is_inside]) < 0).sum())


def _count_overlap(result: Comparison, packed: Packed, earlier: Packed) -> None:
    ours, theirs = set(_unpack(packed)), set(_unpack(earlier))
    overlap = len(ours & theirs) / max(len(ours | theirs), 1)
    result.overlap_sum += overlap
    result.overlaps[min(int(overlap * NUM_BINS), NUM_BINS - 1)] += 1
    result.unchanged += packed == earlier
    result.changed += packed != earlier


def _count_recall(
    result: Comparison,
    catalog: Catalog,
    items: Sequence[str],
    packed: Packed,
    earlier: Packed | None,
) -> None:
    """Count recall over users of both nights only, to see whether the new night is worse."""
    if earlier is None and result.before.num_users:
        return
    ours, theirs = set(_unpack(packed)), set(_unpack(earlier or b""))
    for item in items:
        row = catalog.row(item)
        if row is None:
            continue
        codes_PD = catalog.sids[row][None, : catalog.space.prefix_depth].astype(np.int64)
        (target,) = _unpack(pack(codes_PD))
        result.num_arrivals += 1
        result.recalled += target in ours
        result.recalled_before += target in theirs


def _unpack(packed: Packed) -> list[int]:
    found: list[int] = np.frombuffer(packed, dtype=np.int64).tolist()
    return found
